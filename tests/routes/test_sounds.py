"""Models that hear: sounds in conversations, through every API that has them."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from echo import EchoServer
from models.tiny_projectors import tiny_omni, tiny_ultravox
from picture_files import file, plain
from sound_files import compressed, noise, tone, wav

CATALOGUE = """
[model."listener"]
kind = "text"
source = "listener.gguf"
mmproj = "ears.gguf"
context_length = 1024
default_max_tokens = 200
price = { input = 1.0, output = 2.0 }

[model."omni"]
kind = "text"
source = "omni.gguf"
mmproj = "both.gguf"
context_length = 1024
default_max_tokens = 200

[model."seer"]
kind = "text"
source = "seer.gguf"
mmproj = "echo.gguf"
context_length = 1024

[model."deaf"]
kind = "text"
source = "echo.gguf"
context_length = 1024
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    folder = tmp_path_factory.mktemp("sounds")
    tiny_ultravox().write(folder / "ears.gguf")
    tiny_omni().write(folder / "both.gguf")
    server = EchoServer(folder, CATALOGUE)
    yield server
    server.close()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


SOUND = wav(tone(0.6))  # six rows


def sound(data: bytes = SOUND, form: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64_of(data), "format": form}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def chat(server: EchoServer, *parts: dict[str, Any], **options: Any) -> Any:
    messages = options.pop("messages", [{"role": "user", "content": list(parts)}])
    body = {"model": "listener", "messages": messages, "temperature": 0, **options}
    return server.post("/v1/chat/completions", body)


def said(reply: Any) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def error_of(reply: Any) -> tuple[str, str]:
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    return error["message"], error["param"]


def test_a_sound_stands_where_it_was_sent(server: EchoServer) -> None:
    assert said(chat(server, text("hear:"), sound(), text("what?"))) == "hear:[******]what?"
    url = {"data": f"data:audio/wav;base64,{base64_of(SOUND)}", "format": "wav"}
    assert said(chat(server, {"type": "input_audio", "input_audio": url})) == "[******]"
    named = {"type": "audio_url", "audio_url": {"url": url["data"]}}  # as vLLM's clients write it
    assert said(chat(server, named, text("?"))) == "[******]?"


@pytest.mark.parametrize("form", ["MP3", "FLAC", "OGG"])
def test_a_file_counts_and_not_what_its_format_is_said_to_be(server: EchoServer, form: str) -> None:
    data = compressed(tone(0.6), form)
    assert said(chat(server, sound(data, "wav"), text("?"))).count("*") in (6, 7)  # MP3 pads


def test_usage_counts_tokens_of_sounds_and_the_next_turn_hears_none_again(
    server: EchoServer,
) -> None:
    heard = sound(wav(noise(2.0)))
    first = chat(server, heard, text("one")).json()["usage"]
    details = first["prompt_tokens_details"]
    assert details["audio_tokens"] == 20 and "image_tokens" not in details
    answer = {"role": "assistant", "content": "[" + 20 * "*" + "]one"}
    turns = [{"role": "user", "content": [heard, text("one")]}, answer]
    usage = chat(server, messages=[*turns, {"role": "user", "content": "two"}]).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first["prompt_tokens"]
    expected = (usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6
    assert usage["estimated_cost"] == pytest.approx(expected)


def test_choices_share_a_sound_and_a_stream_says_the_same(server: EchoServer) -> None:
    reply = chat(server, sound(), text("?"), n=3).json()
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["[******]?"] * 3
    assert "*" in chat(server, sound(), text("?"), stream=True).text


def test_a_model_with_both_reads_pictures_and_sounds_in_their_order(server: EchoServer) -> None:
    url = f"data:image/png;base64,{base64_of(file(plain(30, 10)))}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    reply = chat(server, sound(), text("a"), picture, text("b"), model="omni")
    assert said(reply) == "[******]a[***]b"
    details = reply.json()["usage"]["prompt_tokens_details"]
    assert (details["audio_tokens"], details["image_tokens"]) == (6, 3)


def test_a_model_that_does_not_hear_names_those_that_do(server: EchoServer) -> None:
    for model, reads in (("deaf", "takes text only"), ("seer", "takes no sounds")):
        message, param = error_of(chat(server, text("?"), sound(), model=model))
        assert f"{model} {reads} and can't hear the sound in {param}" in message
        assert "a model that hears: listener, omni." in message
        assert param == "messages[0].content[1]"
    url = f"data:image/png;base64,{base64_of(file(plain(30, 10)))}"
    message, _ = error_of(chat(server, {"type": "image_url", "image_url": {"url": url}}))
    assert "listener takes no pictures" in message and "that sees: omni, seer." in message


def test_sounds_of_earlier_turns_are_left_out_where_none_are_heard(server: EchoServer) -> None:
    url = f"data:image/png;base64,{base64_of(file(plain(30, 10)))}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    messages = [
        {"role": "user", "content": [sound(), text("a"), picture]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    reply = chat(server, messages=messages, model="seer")
    assert said(reply) == "c" and reply.headers["x-localinfra-ignored"] == "messages[0].content[0]"
    assert reply.json()["usage"]["prompt_tokens_details"]["image_tokens"] == 3
    heard = chat(server, messages=messages)
    assert heard.headers["x-localinfra-ignored"] == "messages[0].content[2]"
    assert heard.json()["usage"]["prompt_tokens_details"]["audio_tokens"] == 6


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (base64_of(b"no sound"), "can't be read as a sound"),
        (base64_of(wav(tone(61))), "is 61.0 seconds long; at most 60 are read"),
        (base64_of(wav(tone(), claimed=90_000)), "claims 90,000 bytes of samples and holds 16,000"),
        ("!!", "not valid base64"),
        ("file:///etc/passwd", "only data URLs"),
        ("", "can't be read as a sound"),
    ],
)
def test_bad_sounds_are_refused_by_their_path(server: EchoServer, data: str, problem: str) -> None:
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    message, param = error_of(chat(server, text("?"), part))
    assert problem in message and param == "messages[0].content[1]"


def test_sounds_beyond_the_context_are_refused_with_both_numbers(server: EchoServer) -> None:
    message, param = error_of(chat(server, *[sound(wav(noise(59, at))) for at in range(2)]))
    assert "takes 592 tokens, and the context has room for 431 more" in message
    assert param == "messages[0].content[1]"


def test_sounds_in_responses(server: EchoServer) -> None:
    content = [{"type": "input_text", "text": "hear:"}, sound()]
    body = {"model": "listener", "temperature": 0, "input": [{"role": "user", "content": content}]}
    first = server.post("/v1/responses", body)
    assert first.status_code == 200, first.text
    assert first.json()["output"][0]["content"][0]["text"] == "hear:[******]"
    more = {"model": "listener", "previous_response_id": first.json()["id"], "input": "and?"}
    usage = server.post("/v1/responses", {**more, "temperature": 0}).json()["usage"]
    assert usage["input_tokens"] > first.json()["usage"]["input_tokens"] + 8


def test_sounds_of_ollamas_clients_come_as_images(server: EchoServer) -> None:
    message = {"role": "user", "content": "what?", "images": [base64_of(SOUND)]}
    body = {"messages": [message], "stream": False, "options": {"temperature": 0}}
    for model in ("listener", "omni"):
        reply = server.post("/api/chat", body | {"model": model})
        assert reply.json()["message"]["content"] == "[******]what?", reply.text


def test_models_say_what_they_read(server: EchoServer) -> None:
    cards = {one["id"]: one for one in server.client.get("/v1/models?all=true").json()["data"]}
    found = {name: (cards[name]["vision"], cards[name]["hearing"]) for name in cards}
    assert found["omni"] == (True, True) and found["listener"] == (False, True)
    assert found["seer"] == (True, False) and found["deaf"] == (False, False)
