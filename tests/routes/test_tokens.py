"""Text ↔ the token ids of prompts over HTTP, in vLLM's shapes."""

from collections.abc import Iterator
from typing import Any

import pytest
from echo import CATALOGUE, ECHO, END, EchoServer

HELLO: Any = [{"role": "user", "content": "Hello"}]
CALLED = {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}
TEXTS = ["Hello world", "", " \n\t", "ä🦜本 x", "<|im_start|>user\nHi<|im_end|>\n", "a" * 5000]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """A server with one text model, which requests need not name."""
    server = EchoServer(
        tmp_path_factory.mktemp("alone"), CATALOGUE.partition('[model."thinker"]')[0]
    )
    yield server
    server.close()


def tokenize(server: EchoServer, **fields: Any) -> dict[str, Any]:
    reply = server.post("/tokenize", {"model": "echo", **fields})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/openai"])
def test_a_text_comes_back_from_its_tokens(server: EchoServer, text: str, prefix: str) -> None:
    found = server.post(f"{prefix}/tokenize", {"model": "echo", "prompt": text}).json()
    assert found["count"] == len(found["tokens"]) and found["max_model_len"] == 2048
    assert found["token_strs"] is None
    back = {"model": "echo", "tokens": found["tokens"]}
    assert server.post(f"{prefix}/detokenize", back).json() == {"prompt": text}


def test_the_tokens_are_those_of_a_completions_prompt(server: EchoServer) -> None:
    for text in ("Hello world", "<|im_start|>user\nHi<|im_end|>\n"):
        body = {"model": "echo", "prompt": text, "max_tokens": 1, "temperature": 0}
        usage = server.post("/v1/completions", body).json()["usage"]
        found = tokenize(server, prompt=text)
        assert found["count"] == usage["prompt_tokens"]
        same = server.post("/v1/completions", {**body, "prompt": found["tokens"], "echo": True})
        assert same.json()["choices"][0]["text"].startswith(text)


def test_control_tokens_are_recognized_and_spelled_out(server: EchoServer) -> None:
    found = tokenize(server, prompt="a <|im_end|>", return_token_strs=True)
    assert found["tokens"] == [*b"a ", END]
    assert found["token_strs"] == ["a", " ", "<|im_end|>"]
    reply = server.post("/detokenize", {"model": "echo", "tokens": found["tokens"]})
    assert reply.json() == {"prompt": "a <|im_end|>"}


def test_the_tokens_are_those_of_a_chat(server: EchoServer) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    for fields in (
        {"messages": HELLO},
        {"messages": HELLO, "tools": [tool]},
        {"messages": [*HELLO, {"role": "assistant", "content": "Hel"}]},
        {"model": "thinker", "messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}},
    ):
        found = tokenize(server, **fields)
        body = {"model": "echo", "max_tokens": 1, **fields}
        usage = server.post("/v1/chat/completions", body).json()["usage"]
        assert found["count"] == usage["prompt_tokens"]


def spelt(server: EchoServer, **fields: Any) -> str:
    tokens = tokenize(server, **fields)["tokens"]
    return str(server.post("/detokenize", {"model": "echo", "tokens": tokens}).json()["prompt"])


def test_a_conversation_has_a_generation_prompt_or_none(server: EchoServer) -> None:
    answered = [*HELLO, {"role": "assistant", "content": "Hel"}]
    assert spelt(server, messages=HELLO).endswith("Hello<|im_end|>\n<|im_start|>assistant\n")
    assert spelt(server, messages=HELLO, add_generation_prompt=False).endswith("Hello<|im_end|>\n")
    assert spelt(server, messages=answered).endswith("<|im_start|>assistant\nHel")
    assert spelt(server, messages=answered, add_generation_prompt=False).endswith("Hel<|im_end|>\n")
    continued = {"add_generation_prompt": False, "continue_final_message": True}
    assert spelt(server, messages=answered, **continued).endswith("<|im_start|>assistant\nHel")


def test_a_text_longer_than_the_context_is_counted(server: EchoServer) -> None:
    assert tokenize(server, prompt="word " * 10_000)["count"] > 10_000


def test_control_tokens_in_a_system_message_stay_text(server: EchoServer) -> None:
    typed = [{"role": "system", "content": "a <|im_end|> b"}, *HELLO]
    assert spelt(server, messages=typed).startswith("<|im_start|>system\na <|im_end|> b<|im_end|>")
    assert tokenize(server, messages=typed)["tokens"].count(END) == 2


# body → status, param, code
TOKENIZE_ERRORS: list[tuple[dict[str, Any], int, str, str]] = [
    ({}, 400, "prompt", "invalid_value"),
    ({"prompt": "a", "messages": HELLO}, 400, "prompt", "invalid_value"),
    ({"prompt": 5}, 400, "prompt", "invalid_value"),
    ({"prompt": "a" * 1_000_001}, 400, "prompt", "invalid_value"),
    ({"messages": []}, 400, "messages", "invalid_value"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "invalid_value"),
    ({"messages": HELLO, "chat_template": "x"}, 400, "chat_template", "unsupported_parameter"),
    (
        {"messages": HELLO, "chat_template_kwargs": {"messages": 1}},
        400, "chat_template_kwargs", "invalid_value",
    ),
    (
        {"messages": HELLO, "continue_final_message": True},
        400, "continue_final_message", "invalid_value",
    ),
    (
        {"prompt": "a", "continue_final_message": True},
        400, "continue_final_message", "invalid_value",
    ),
    (
        {
            "messages": [*HELLO, {"role": "assistant", "tool_calls": [CALLED]}],
            "continue_final_message": True,
        },
        400, "continue_final_message", "invalid_value",
    ),
    (
        {
            "messages": [*HELLO, {"role": "assistant", "content": "Hel"}],
            "continue_final_message": True, "add_generation_prompt": True,
        },
        400, "continue_final_message", "invalid_value",
    ),
    ({"prompt": "a", "model": "gpt-4o"}, 404, "model", "model_not_found"),
    ({"prompt": "a", "model": "absent"}, 503, "model", "model_unavailable"),
    ({"prompt": "a", "model": None}, 400, "model", "invalid_value"),
]  # fmt: skip

DETOKENIZE_ERRORS: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "tokens"),
    ({"tokens": [262]}, 400, "tokens"),
    ({"tokens": [-1]}, 400, "tokens"),
    ({"tokens": [2**70]}, 400, "tokens"),
    ({"tokens": ["a"]}, 400, "tokens[0]"),
    ({"tokens": "a"}, 400, "tokens"),
    ({"tokens": [0] * 1_000_001}, 400, "tokens"),
    ({"tokens": [0], "model": "vectors"}, 400, "model"),
]


@pytest.mark.parametrize(("body", "status", "param", "code"), TOKENIZE_ERRORS)
def test_a_wrong_text_gets_a_clear_error(
    server: EchoServer, body: dict[str, Any], status: int, param: str, code: str
) -> None:
    reply = server.post("/tokenize", {"model": "echo", **body})
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error


@pytest.mark.parametrize(("body", "status", "param"), DETOKENIZE_ERRORS)
def test_wrong_tokens_get_a_clear_error(
    server: EchoServer, body: dict[str, Any], status: int, param: str
) -> None:
    reply = server.post("/detokenize", {"model": "echo", **body})
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["param"] == param, reply.text


def test_only_text_models_have_tokens_here(server: EchoServer) -> None:
    for path, body in (("/tokenize", {"prompt": "a"}), ("/v1/detokenize", {"tokens": [1]})):
        reply = server.post(path, {"model": "vectors", **body})
        assert reply.status_code == 400
        assert f"an embedding model: it answers at /v1/embeddings, not at {path}" in reply.text


def test_the_tokenizer_of_a_named_model_is_described(server: EchoServer) -> None:
    info = server.client.get(f"{server.url}/tokenizer_info", params={"model": "echo"}).json()
    assert info["model"] == ECHO and info["tokenizer_class"] == "bytes"
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "<|im_end|>")
    assert info["model_max_length"] == 2048 and "im_start" in info["chat_template"]
    thinker = server.client.get(f"{server.url}/tokenizer_info", params={"model": "thinker"}).json()
    assert "enable_thinking" in thinker["chat_template"]  # models.toml has replaced it


def test_lm_evals_requests_name_no_model(alone: EchoServer, server: EchoServer) -> None:
    """The requests of its remote tokenizer. A server with several text models refuses them, and it
    takes another tokenizer."""
    info = server.client.get(f"{alone.url}/tokenizer_info").json()
    body = {"prompt": info["eos_token"], "add_special_tokens": False}
    assert alone.post("/tokenize", body).json()["tokens"] == [END]
    assert alone.post("/detokenize", {"tokens": [END]}).json() == {"prompt": "<|im_end|>"}
    for reply in (server.client.get("/tokenizer_info"), server.post("/tokenize", body)):
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")
