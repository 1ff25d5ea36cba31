"""Chat templates of models that see: pictures stand in whatever they make of texts."""

from collections.abc import Iterator

import pytest
from echo import CHATML, EchoServer
from routes.test_pictures import chat, error_of, image, said, text

# As SmolVLM's: it reads lists of parts alone.
IN_PARTS = CHATML.replace(
    "{{ message.content }}",
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}",
)
TEMPLATES = {
    "parts": IN_PARTS,
    "json": CHATML.replace("message.content", "message.content | tojson"),
    "shouts": CHATML.replace("message.content", "message.content | upper"),
    "cuts": CHATML.replace("message.content", "message.content[:20]"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    tables = [
        f'[model."{name}"]\nkind = "text"\nsource = "seer.gguf"\nmmproj = "echo.gguf"\n'
        f"context_length = 1024\nchat_template = '''{template}'''\n"
        for name, template in TEMPLATES.items()
    ]
    server = EchoServer(tmp_path_factory.mktemp("templates"), "\n".join(tables))
    yield server
    server.close()


def test_a_template_that_reads_parts_alone_shows_texts_and_pictures(server: EchoServer) -> None:
    assert said(chat(server, text("only text"), model="parts")) == "only text"
    seen = chat(server, text("look:"), image(), text("what?"), model="parts")
    assert said(seen) == "look:[******]what?"
    assert said(chat(server, image(), text("x"), model="json")).endswith('[******]x"')


@pytest.mark.parametrize("model", ["shouts", "cuts"])
def test_a_picture_that_a_template_loses_is_not_left_out_silently(
    server: EchoServer, model: str
) -> None:
    message, param = error_of(chat(server, text("look:"), image(), image(), model=model))
    assert "picture or sound 1 of 2" in message and "set another chat_template" in message
    assert param == "messages"
    assert chat(server, text("only text"), model=model).status_code == 200
