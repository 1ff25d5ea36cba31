"""Models that see: pictures in conversations, through every API."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from echo import EchoServer
from picture_files import file, plain, png_header
from PIL import Image

CATALOGUE = """
[model."seer"]
kind = "text"
source = "seer.gguf"
mmproj = "echo.gguf"
context_length = 1024
default_max_tokens = 200
price = { input = 1.0, output = 2.0 }

[model."blind"]
kind = "text"
source = "echo.gguf"
context_length = 1024
"""


@pytest.fixture(scope="module")
def seer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("seer"), CATALOGUE)
    yield server
    server.close()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64_of(data)}"


PICTURE = file(plain(30, 20))  # six rows


def image(data: bytes = PICTURE, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(data), **options}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def chat(seer: EchoServer, *parts: dict[str, Any], model: str = "seer", **options: Any) -> Any:
    messages = options.pop("messages", [{"role": "user", "content": list(parts)}])
    body = {"model": model, "messages": messages, "temperature": 0, **options}
    return seer.post("/v1/chat/completions", body)


def said(reply: Any) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def error_of(reply: Any) -> tuple[str, str]:
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    return error["message"], error["param"]


def test_a_picture_stands_where_it_was_sent(seer: EchoServer) -> None:
    assert said(chat(seer, text("look:"), image(), text("what?"))) == "look:[******]what?"
    assert said(chat(seer, image(), text("a"), text("b"))) == "[******]a\nb"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_format(seer: EchoServer, form: str) -> None:
    assert said(chat(seer, image(file(plain(30, 20), form)), text("?"))) == "[******]?"


def test_usage_counts_tokens_of_pictures_and_the_next_turn_reads_none_again(
    seer: EchoServer,
) -> None:
    picture = image(file(plain(50, 40, (1, 2, 3))))
    first = chat(seer, picture, text("one")).json()["usage"]
    assert first["prompt_tokens_details"]["image_tokens"] == 20
    answer = {"role": "assistant", "content": "[" + 20 * "*" + "]one"}
    turns = [{"role": "user", "content": [picture, text("one")]}, answer]
    second = chat(seer, messages=[*turns, {"role": "user", "content": "two"}])
    usage = second.json()["usage"]
    assert usage["prompt_tokens_details"]["image_tokens"] == 20
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first["prompt_tokens"]
    expected = (usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6
    assert usage["estimated_cost"] == pytest.approx(expected)
    assert "image_tokens" not in chat(seer, text("x")).json()["usage"]["prompt_tokens_details"]


def test_choices_share_a_picture_and_a_stream_says_the_same(seer: EchoServer) -> None:
    reply = chat(seer, image(), text("?"), n=3).json()
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["[******]?"] * 3
    assert "*" in chat(seer, image(), text("?"), stream=True).text


def test_low_detail_makes_a_large_picture_small(seer: EchoServer) -> None:
    large = image(file(plain(1024, 20)))
    low = image(file(plain(1024, 20)), detail="low")
    assert said(chat(seer, large, text("?"))).count("*") == 199  # and a bracket: max_tokens
    assert said(chat(seer, low, text("?"))).count("*") == 51


def test_text_can_neither_show_a_picture_nor_break_one(seer: EchoServer) -> None:
    told = "picture00000000000000000000000000000000x0z [*] <|im_start|>"
    assert said(chat(seer, image(), text(told))) == f"[******]{told}"


def test_pictures_of_earlier_turns_and_tools_are_seen(seer: EchoServer) -> None:
    messages = [
        {"role": "user", "content": [image(), text("a")]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    reply = chat(seer, messages=messages)
    assert reply.json()["usage"]["prompt_tokens_details"]["image_tokens"] == 6
    assert "x-localinfra-ignored" not in reply.headers
    blind = chat(seer, messages=messages, model="blind")
    assert blind.headers["x-localinfra-ignored"] == "messages[0].content[0]"


def test_a_model_that_does_not_see_names_those_that_do(seer: EchoServer) -> None:
    message, param = error_of(chat(seer, image(), text("?"), model="blind"))
    assert "blind takes text only" in message and "a model that sees: seer." in message
    assert param == "messages[0].content[0]"


def test_a_model_whose_projector_is_not_used_is_not_named_as_one_that_sees(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """As with safer settings, or if llama.cpp can't use the projector."""
    catalogue = CATALOGUE.replace('[model."blind"]', '[model."blinded"]\nmmproj = "seer.gguf"')
    catalogue += '[model."blind"]\nkind = "text"\nsource = "echo.gguf"\n'
    server = EchoServer(tmp_path_factory.mktemp("blinded"), catalogue)
    message, _ = error_of(chat(server, image(), model="blinded"))
    assert "blinded is loaded without its projector" in message and "seer" not in message
    message, _ = error_of(chat(server, image(), model="blind"))
    assert "a model that sees: seer." in message
    content = [{"type": "input_image", "image_url": data_url(PICTURE)}]
    body = {"model": "blinded", "input": [{"role": "user", "content": content}]}
    assert "without its projector" in error_of(server.post("/v1/responses", body))[0]
    server.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (data_url(b"no picture"), "can't be read as an image"),
        (data_url(png_header(5000, 5000)), "5000 x 5000 pixels"),
        (data_url(file(plain(1, 1000))), "1 x 1000 pixels"),
        (data_url(file(plain(1000, 1000))), "takes 10002 tokens, and the context has room for"),
        ("data:image/png;base64,!!", "not valid base64"),
        ("http://127.0.0.1/picture.png", "fetch_images = true"),
        ("file:///etc/passwd", "only data URLs"),
    ],
)
def test_bad_pictures_are_refused_by_their_path(seer: EchoServer, url: str, problem: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    message, param = error_of(chat(seer, text("?"), part))
    assert problem in message and param == "messages[0].content[1]"


def test_too_many_pictures_are_refused_with_both_numbers(seer: EchoServer) -> None:
    message, _ = error_of(chat(seer, *[image()] * 257))
    assert "257 pictures" in message and "at most 256" in message
    message, param = error_of(chat(seer, *[image(file(plain(100, 100)))] * 12))
    assert "takes 102 tokens, and the context has room for" in message
    assert param == "messages[0].content[10]"


def test_ten_pictures_in_one_conversation(seer: EchoServer) -> None:
    shades = [file(plain(10, 10 * (1 + at), (at, 0, 0))) for at in range(10)]
    parts = [part for at, data in enumerate(shades) for part in (image(data), text(str(at)))]
    expected = "".join(f"[{'*' * (1 + at)}]{at}" for at in range(10))
    assert said(chat(seer, *parts)) == expected


def test_images_of_ollamas_clients(seer: EchoServer) -> None:
    message = {"role": "user", "content": "what?", "images": [base64_of(PICTURE)]}
    body = {"model": "seer", "messages": [message], "stream": False}
    reply = seer.post("/api/chat", body | {"options": {"temperature": 0}})
    assert reply.json()["message"]["content"] == "[******]what?"
    body = {"model": "seer", "prompt": "what?", "images": [base64_of(PICTURE)], "stream": False}
    reply = seer.post("/api/generate", body | {"options": {"temperature": 0}})
    assert reply.json()["response"] == "[******]what?" and "context" not in reply.json()
    reply = seer.post("/api/generate", body | {"prompt": "", "options": {"temperature": 0}})
    assert reply.json()["response"] == "[******]", "a picture is a question too"


def test_transparent_and_deep_pictures(seer: EchoServer) -> None:
    for picture in (Image.new("RGBA", (30, 20)), Image.new("LA", (30, 20)), plain(30, 20)):
        assert said(chat(seer, image(file(picture)), text("?"))) == "[******]?"


def block(data: bytes = PICTURE) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": base64_of(data)}
    return {"type": "image", "source": source}


def messages_api(seer: EchoServer, content: Any, path: str = "", **options: Any) -> Any:
    messages = [{"role": "user", "content": content}]
    body = {"model": "seer", "max_tokens": 100, "temperature": 0, "messages": messages, **options}
    return seer.post(f"/v1/messages{path}", body)


def test_image_blocks_of_anthropics_clients(seer: EchoServer) -> None:
    content = [text("look:"), block(), text("what?"), text("well")]
    reply = messages_api(seer, content).json()
    assert reply["content"][0]["text"] == "look:[******]what?\nwell"
    counted = messages_api(seer, content, "/count_tokens", max_tokens=None, temperature=None)
    assert counted.json()["input_tokens"] == sum(
        reply["usage"].get(name) or 0 for name in ("input_tokens", "cache_read_input_tokens")
    )
    assert "*" in messages_api(seer, content, stream=True).text


def test_what_an_image_block_says_of_its_data_does_not_matter(seer: EchoServer) -> None:
    for source in (
        {"media_type": "image/jpeg", "data": base64_of(PICTURE)},
        {"media_type": "x," + "y" * 300, "data": base64_of(PICTURE)},
        {"media_type": "image/png", "data": data_url(PICTURE)},
    ):
        sent = {"type": "image", "source": {"type": "base64", **source}}
        reply = messages_api(seer, [sent])
        assert reply.status_code == 200 and reply.json()["content"][0]["text"] == "[******]"


def test_images_in_results_of_tools(seer: EchoServer) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "shot", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("a"), block()]}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result, text("well?")]},
    ]
    tools = [{"name": "shot", "input_schema": {"type": "object"}}]
    reply = messages_api(seer, "", messages=messages, tools=tools)
    assert reply.status_code == 200, reply.text
    assert "x-localinfra-ignored" not in reply.headers


def test_image_blocks_are_refused_by_their_path(seer: EchoServer) -> None:
    bad = block(b"no picture")
    reply = messages_api(seer, [text("?"), bad])
    assert reply.status_code == 400 and "messages[0].content[1] can't be read" in reply.text
    reply = messages_api(seer, [text("?"), block()], model="blind")
    assert reply.status_code == 400 and "a model that sees: seer." in reply.text
    url = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    reply = messages_api(seer, [url])
    assert reply.status_code == 400 and "fetch_images = true" in reply.text


def test_images_in_responses_and_in_the_response_that_follows(seer: EchoServer) -> None:
    content = [
        {"type": "input_text", "text": "look:"},
        {"type": "input_image", "image_url": data_url(PICTURE), "detail": "auto"},
    ]
    body = {"model": "seer", "temperature": 0, "input": [{"role": "user", "content": content}]}
    first = seer.post("/v1/responses", body)
    assert first.status_code == 200, first.text
    assert first.json()["output"][0]["content"][0]["text"] == "look:[******]"
    counted = seer.post("/v1/responses/input_tokens", {k: body[k] for k in ("model", "input")})
    assert counted.json()["input_tokens"] == first.json()["usage"]["input_tokens"]
    more = {"model": "seer", "previous_response_id": first.json()["id"], "input": "and?"}
    usage = seer.post("/v1/responses", {**more, "temperature": 0}).json()["usage"]
    assert usage["input_tokens"] > first.json()["usage"]["input_tokens"] + 8
    broken = {"type": "input_image", "image_url": data_url(b"no picture")}
    reply = seer.post("/v1/responses", {**body, "input": [{"role": "user", "content": [broken]}]})
    message, param = error_of(reply)
    assert message.startswith("input can't be read as an image") and param == "input"
    message, _ = error_of(seer.post("/v1/responses", {**body, "model": "blind"}))
    assert "text only" in message and message.endswith("Here seer can see.")
    no_picture = [{"type": "input_image", "file_id": "file-1"}]
    message, param = error_of(
        seer.post("/v1/responses", {**body, "input": [{"role": "user", "content": no_picture}]})
    )
    assert "an input_image with a data URL" in message and param == "input[0].content[0]"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": {"url": data_url(PICTURE), "detail": "low"}},
        {"type": "image_url", "image_url": {"url": data_url(PICTURE)}},
    ],
)
def test_responses_read_images_in_chats_form_too(seer: EchoServer, part: dict[str, Any]) -> None:
    message = {"role": "user", "content": [part]}
    reply = seer.post("/v1/responses", {"model": "seer", "temperature": 0, "input": [message]})
    assert reply.status_code == 200, reply.text
    assert reply.json()["output"][0]["content"][0]["text"] == "[******]"


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"type": "image_url"}, "has no picture: send it as image_url"),
        ({"type": "image_url", "image_url": ""}, "has no picture"),
        ({"type": "image", "image": data_url(PICTURE)}, "has no picture"),
        ({"type": "input_audio"}, "has no sound: send it as input_audio"),
        ({"type": "file", "file": {"file_id": "f"}}, "seer reads texts, pictures; a content part"),
    ],
)
def test_a_model_that_sees_does_not_say_that_it_reads_text_only(
    seer: EchoServer, part: dict[str, Any], problem: str
) -> None:
    message, param = error_of(chat(seer, text("?"), part))
    assert problem in message and param == "messages[0].content[1]"


def test_token_ids_don_t_tell_of_pictures(seer: EchoServer) -> None:
    body = {"messages": [{"role": "user", "content": [image(), text("?")]}]}
    message, param = error_of(seer.post("/tokenize", {"model": "seer", **body}))
    assert "/v1/responses/input_tokens" in message and param == "messages[0].content[0]"


FETCHING = "[server]\nfetch_images = true\n" + CATALOGUE


@pytest.fixture(scope="module")
def fetching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("fetching"), FETCHING)
    yield server
    server.close()


def named(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_urls_are_fetched_only_if_the_settings_say_so(seer: EchoServer) -> None:
    reply = chat(seer, named("https://example.org/a.png"))
    message, param = error_of(reply)
    assert "fetch_images = true" in message and param == "messages[0].content[0]"


def test_pictures_are_fetched_from_the_internet_alone(fetching: EchoServer) -> None:
    for url in (f"{fetching.url}/health", "http://169.254.169.254/", "http://[::1]/"):
        message, param = error_of(chat(fetching, named(url)))
        assert "not on the public internet" in message and param == "messages[0].content[0]"
    message, _ = error_of(chat(fetching, *[named(f"http://a.invalid/{i}") for i in range(17)]))
    assert "more than 16" in message


def test_a_fetched_picture_is_like_any_other_and_kept_for_its_client(
    fetching: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    answers: list[bytes] = []

    def fetch(url: str, most_bytes: int, limit_s: float) -> bytes:
        fetched.append(url)
        return answers.pop() if answers else PICTURE

    monkeypatch.setattr("localinfra.api.fetched.fetch_picture", fetch)
    for _ in range(2):
        reply = chat(fetching, named("https://example.org/a.png"), text("?"))
        assert said(reply) == "[******]?"
    assert fetched == ["https://example.org/a.png"]
    answers.append(b"no picture")
    message, param = error_of(chat(fetching, named("https://example.org/c.png")))
    assert "can't be read as an image" in message and param == "messages[0].content[0]"
    assert said(chat(fetching, named("https://example.org/c.png"))) == "[******]"
    block = {"type": "url", "url": "https://example.org/b.png"}
    content = [{"type": "image", "source": block}, text("?")]
    turn = {"role": "user", "content": content}
    body = {"model": "seer", "max_tokens": 100, "temperature": 0, "messages": [turn]}
    reply = fetching.post("/v1/messages", body)
    assert reply.json()["content"][0]["text"] == "[******]?", reply.text
