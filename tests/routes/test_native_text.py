"""/v1/inference/{model}: DeepInfra's native API for text models."""

import json
from typing import Any

import httpx2
import jsonschema
import pytest
from echo import ECHO, END, EchoServer

TEXT = f"/v1/inference/{ECHO}"
PROMPT = "<|im_start|>user\nName a color.<|im_end|>\n<|im_start|>assistant\n"
GREEDY = {"input": PROMPT, "temperature": 0, "seed": 1, "max_new_tokens": 24}


def infer(server: EchoServer, **fields: Any) -> dict[str, Any]:
    answer = server.post(TEXT, {**GREEDY, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def text(server: EchoServer, **fields: Any) -> str:
    return str(infer(server, **fields)["results"][0]["generated_text"])


def completion(server: EchoServer, **fields: Any) -> dict[str, Any]:
    body = {"model": ECHO, "prompt": PROMPT, "temperature": 0, "seed": 1, "max_tokens": 24}
    found: dict[str, Any] = server.post("/v1/completions", {**body, **fields}).json()
    return found


def stream(server: EchoServer, **fields: Any) -> tuple[list[dict[str, Any]], str]:
    """The events, and the raw text."""
    answer = server.post(TEXT, {**GREEDY, **fields, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, end = answer.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events], answer.text


def test_the_text_is_that_of_completions(server: EchoServer) -> None:
    body, plain = infer(server), completion(server)
    assert body["results"] == [{"generated_text": plain["choices"][0]["text"]}]
    assert body["num_input_tokens"] == plain["usage"]["prompt_tokens"]
    assert body["num_tokens"] == plain["usage"]["completion_tokens"]
    status = body["inference_status"]
    assert status["status"] == "succeeded" and status["runtime_ms"] > 0
    assert status["tokens_input"] == body["num_input_tokens"]
    assert status["tokens_generated"] == body["num_tokens"]
    assert status["cost"] == plain["usage"]["estimated_cost"] > 0
    assert body["request_id"]


def test_control_tokens_in_the_input_are_recognized(server: EchoServer) -> None:
    assert infer(server, input="<|im_start|>", max_new_tokens=1)["num_input_tokens"] == 1


def test_without_a_limit_512_tokens_are_generated(server: EchoServer) -> None:
    """The model's own default here is 64."""
    body = server.post(TEXT, {"input": "1 2 3 4 5 6 7 8 9", "temperature": 0}).json()
    assert body["num_tokens"] == 512


@pytest.mark.parametrize("stop", ["\n", ["never", "\n"], ["", "\n"]])
def test_stop(server: EchoServer, stop: str | list[str]) -> None:
    prompt = {"input": PROMPT.replace("Name a color.", "red\ngreen")}
    assert text(server, **prompt) == "red\ngreen" and text(server, **prompt, stop=stop) == "red"


def test_sampling_parameters_are_those_of_completions(server: EchoServer) -> None:
    fields = {
        "temperature": 1.5,
        "top_p": 0.9,
        "min_p": 0.01,
        "top_k": 40,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "seed": 7,
    }
    sampled = text(server, **fields)
    assert sampled == completion(server, **fields)["choices"][0]["text"] != text(server)


def test_several_responses_share_a_prompt(server: EchoServer) -> None:
    body = infer(server, temperature=1, num_responses=3, seed=5)
    plain = completion(server, temperature=1, n=3, seed=5)
    texts = [result["generated_text"] for result in body["results"]]
    assert texts == [choice["text"] for choice in plain["choices"]] and len(set(texts)) > 1
    assert body["num_tokens"] == plain["usage"]["completion_tokens"]
    assert body["num_input_tokens"] == plain["usage"]["prompt_tokens"]


SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}, "count": {"type": "integer", "maximum": 9}},
    "required": ["color", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("streams", [False, True])
def test_output_of_a_given_form(server: EchoServer, streams: bool) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    fields = {"temperature": 1, "max_new_tokens": 60, "response_format": response_format}
    if streams:
        events, _ = stream(server, **fields)
        written = events[-1]["generated_text"]
        assert events[-1]["details"]["finish_reason"] == "stop"
    else:
        written = text(server, **fields)
    jsonschema.validate(json.loads(written), SCHEMA)


def test_a_stream_has_an_event_for_each_token_and_the_text_on_the_last(server: EchoServer) -> None:
    whole = infer(server)
    events, _ = stream(server)
    assert len(events) == whole["num_tokens"]
    for event in events[:-1]:
        assert list(event) == ["token", "generated_text", "details"]
        assert list(event["token"]) == ["id", "text", "logprob", "special"]
        assert event["generated_text"] is None and event["details"] is None
    last = events[-1]
    assert last["generated_text"] == whole["results"][0]["generated_text"]
    assert last["details"] == {
        "finish_reason": "length" if len(events) == 24 else "stop",
        "num_input_tokens": whole["num_input_tokens"],
        "num_tokens": len(events),
    }
    assert "".join(event["token"]["text"] for event in events) == last["generated_text"]


def test_tokens_and_logprobs_are_those_of_completions(server: EchoServer) -> None:
    events, _ = stream(server)
    logprobs = completion(server, logprobs=0)["choices"][0]["logprobs"]
    tokens = [event["token"] for event in events if not event["token"]["special"]]
    assert [token["text"] for token in tokens] == logprobs["tokens"]
    assert [token["logprob"] for token in tokens] == logprobs["token_logprobs"]
    ids = {"prompt": [token["id"] for token in tokens], "echo": True, "max_tokens": 0}
    assert completion(server, **ids)["choices"][0]["text"] == "".join(logprobs["tokens"])


def test_the_token_that_ends_the_turn_is_special_and_has_no_text(server: EchoServer) -> None:
    events, _ = stream(server, input=PROMPT + "Blue.<|im_end|>", logit_bias={END: 100})
    [last] = events
    assert last["token"]["id"] == END and last["token"]["special"] and last["token"]["text"] == ""
    assert last["generated_text"] == "" and last["details"]["finish_reason"] == "stop"


EMOJI = {"response_format": {"type": "regex", "regex": "🎉ü🧊"}, "max_new_tokens": 50}


def test_half_a_character_is_held_back(server: EchoServer) -> None:
    events, _ = stream(server, **EMOJI)
    texts = [event["token"]["text"] for event in events]
    assert "".join(texts) == events[-1]["generated_text"] == "🎉ü🧊"
    assert texts[0] == "" and "🎉" in texts


@pytest.mark.parametrize("num_held", [1, 2, 3])
def test_part_of_a_stop_string_is_held_back_and_a_whole_one_never_sent(
    server: EchoServer, num_held: int
) -> None:
    plain = text(server, **EMOJI)
    stop = plain[-num_held:]
    events, sent = stream(server, **EMOJI, stop=[stop, plain + "!"])
    assert "".join(event["token"]["text"] for event in events) == plain[:-num_held]
    assert events[-1]["generated_text"] == plain[:-num_held]
    assert events[-1]["details"]["finish_reason"] == "stop"
    assert stop not in sent


def test_text_held_back_for_a_stop_string_comes_at_the_end(server: EchoServer) -> None:
    plain = text(server)
    events, _ = stream(server, stop=plain + "!")
    assert "".join(event["token"]["text"] for event in events) == plain
    assert events[0]["token"]["text"] == "" and events[-1]["token"]["text"] == plain


def test_the_word_langchain_takes_for_a_failure_is_never_in_a_stream(
    server: EchoServer,
) -> None:
    """It refuses any stream with it; escaped in JSON, the text is the same."""
    regex = {"type": "regex", "regex": r"An error, \\error\\n of errorerror"}
    events, sent = stream(server, response_format=regex, max_new_tokens=60)
    assert "error" not in sent
    assert events[-1]["generated_text"] == r"An error, \error\n of errorerror"


def test_a_client_that_leaves_a_stream_frees_its_place(server: EchoServer) -> None:
    body = {"input": "Once", "max_new_tokens": 1500, "stream": True}
    url = f"{server.url}/v1/inference/slow"
    with server.cut_short(1500), httpx2.stream("POST", url, json=body, timeout=600) as answer:
        next(answer.iter_bytes())


def post_form(server: EchoServer, path: str, fields: dict[str, str]) -> httpx2.Response:
    parts = {name: (None, value) for name, value in fields.items()}
    return server.client.post(server.url + path, files=parts, timeout=600)


def test_a_form_is_answered_like_json(server: EchoServer) -> None:
    expected = text(server, stop=["\n", "zzz"])
    fields = {**GREEDY, "stop": ["\n", "zzz"]}
    by_deepinfra = {name: json.dumps(value) for name, value in fields.items()}
    by_curl = {**by_deepinfra, "input": PROMPT}
    for form in (by_deepinfra, by_curl):
        answer = post_form(server, TEXT, form)
        assert answer.json()["results"][0]["generated_text"] == expected, answer.text


def test_a_form_can_ask_for_a_stream(server: EchoServer) -> None:
    answer = post_form(server, TEXT, {"input": "Hi", "stream": "true", "max_new_tokens": "3"})
    assert answer.text.count("data: ") == 4 and answer.text.endswith("data: [DONE]\n\n")


def test_a_form_from_a_foreign_page_is_refused(server: EchoServer) -> None:
    for headers in (
        {"origin": "https://evil.com"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ):
        parts = {"input": (None, "Hi")}
        answer = server.client.post(server.url + TEXT, files=parts, headers=headers)
        assert answer.status_code == 403, answer.text


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/inference/no/such", {"inputs": ["a"]}, 404, "model"),
        ("/v1/inference/absent", {"input": "a"}, 503, "model"),
        (TEXT, {}, 400, "input"),
        (TEXT, {"input": None}, 400, "input"),
        (TEXT, {"input": ["a"]}, 400, "input"),
        (TEXT, {"input": "a " * 5000}, 400, "input"),
        (TEXT, {"input": "a " * 500_000}, 400, "input"),
        (TEXT, {"input": "a", "max_new_tokens": 0}, 400, "max_new_tokens"),
        (TEXT, {"input": "a", "max_new_tokens": "5"}, 400, "max_new_tokens"),
        (TEXT, {"input": "a", "temperature": 2.5}, 400, "temperature"),
        (TEXT, {"input": "a", "top_p": 0}, 400, "top_p"),
        (TEXT, {"input": "a", "top_k": 1000}, 400, "top_k"),
        (TEXT, {"input": "a", "repetition_penalty": 0}, 400, "repetition_penalty"),
        (TEXT, {"input": "a", "stop": ["x"] * 65}, 400, "stop"),
        (TEXT, {"input": "a", "seed": -2}, 400, "seed"),
        (TEXT, {"input": "a", "num_responses": 0}, 400, "num_responses"),
        (TEXT, {"input": "a", "num_responses": 2, "stream": True}, 400, "num_responses"),
        (TEXT, {"input": "a", "webhook": "http://a.example"}, 400, "webhook"),
        (TEXT, {"input": "a", "response_format": {"type": "xml"}}, 400, "response_format.type"),
    ],
)
def test_bad_input(
    server: EchoServer, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = server.post(path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), answer.text
    assert error["message"]


def test_a_webhook_is_refused(server: EchoServer) -> None:
    answer = server.post(TEXT, {"input": "a", "webhook": "http://a.example"})
    assert answer.json()["error"]["code"] == "unsupported_parameter"


def test_unknown_fields_are_reported(server: EchoServer) -> None:
    answer = server.post(TEXT, {"input": "a", "max_new_tokens": 1, "beams": 4})
    assert answer.headers["x-localinfra-ignored"] == "beams"


def test_a_broken_form_is_a_clear_400(server: EchoServer) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = server.client.post(server.url + TEXT, content=b"--x\r\n", headers=headers)
    assert answer.status_code == 400 and "closing boundary" in answer.json()["error"]["message"]
