"""/v1/inference/{model}: pictures beside the prompt of a model that sees."""

from collections.abc import Iterator
from typing import Any

import pytest
from echo import EchoServer
from picture_files import file, plain
from routes.test_pictures import CATALOGUE, PICTURE, data_url, error_of

SMALL = data_url(PICTURE)  # six rows, between brackets
LARGE = data_url(file(plain(50, 20)))  # ten rows


@pytest.fixture(scope="module")
def seer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("seer"), CATALOGUE)
    yield server
    server.close()


def infer(seer: EchoServer, text: str, model: str = "seer", **fields: Any) -> Any:
    body = {"input": f"{text}\n", "temperature": 0, **fields}
    return seer.post(f"/v1/inference/{model}", body)


def said(reply: Any) -> str:
    assert reply.status_code == 200, reply.text
    assert "x-localinfra-ignored" not in reply.headers
    return str(reply.json()["results"][0]["generated_text"])


def test_a_picture_comes_before_the_prompt_or_where_it_is_marked(seer: EchoServer) -> None:
    assert said(infer(seer, "what?", image=SMALL)) == "[******]what?"
    assert said(infer(seer, "look: <image>what?", image=SMALL)) == "look: [******]what?"
    marked = infer(seer, "a<image>b<image>c", images=[LARGE, SMALL])
    assert said(marked) == f"a[{10 * '*'}]b[******]c"
    assert said(infer(seer, "a", image=SMALL, images=[LARGE])) == f"[******][{10 * '*'}]a"


def test_its_tokens_are_counted_and_charged(seer: EchoServer) -> None:
    status = infer(seer, "what?", image=LARGE).json()["inference_status"]
    assert status["tokens_input"] == 12 + len("what?\n")
    expected = (status["tokens_input"] + 2 * status["tokens_generated"]) / 1e6
    assert status["cost"] == pytest.approx(expected)


def test_a_stream_sees_too(seer: EchoServer) -> None:
    reply = infer(seer, "what?", image=SMALL, stream=True)
    assert '"generated_text":"[******]what?"' in reply.text


@pytest.mark.parametrize("name", ["image", "images", "images[]"])
def test_a_form_has_pictures_as_files(seer: EchoServer, name: str) -> None:
    def asked(*pictures: bytes) -> Any:
        fields = {"input": "a\n", "temperature": "0"}
        files = [(name, ("a.png", data, "image/png")) for data in pictures]
        return seer.client.post("/v1/inference/seer", data=fields, files=files)

    assert said(asked(PICTURE)) == "[******]a"
    if name != "image":
        assert said(asked(PICTURE, file(plain(50, 20)))) == f"[******][{10 * '*'}]a"


def test_without_pictures_the_mark_is_text(seer: EchoServer) -> None:
    assert said(infer(seer, "a<image>b")) == "a<image>b"


def test_bad_pictures_are_refused_by_their_field(seer: EchoServer) -> None:
    message, param = error_of(infer(seer, "a", images=[SMALL, data_url(b"no picture")]))
    assert "can't be read as an image" in message and param == "images[1]"
    message, param = error_of(infer(seer, "a<image>b<image>", image=SMALL))
    assert "2 times <image>, and there are 1 pictures" in message and param == "input"
    message, param = error_of(infer(seer, "a", image=SMALL, images=[SMALL] * 256))
    assert "257 pictures" in message and param == "images"
    message, param = error_of(infer(seer, "a", image="https://example.org/a.png"))
    assert "fetch_images = true" in message and param == "image"


def test_a_model_that_does_not_see_names_those_that_do(seer: EchoServer) -> None:
    message, param = error_of(infer(seer, "a", model="blind", image=SMALL))
    assert "a model that sees: seer." in message and param == "image"
