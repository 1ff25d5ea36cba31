"""Text ↔ token ids over HTTP, as the prompts have them, in vLLM's shapes."""

import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import msgspec
import pytest
from live import SMOLLM2, LiveServer

HELLO: Any = [{"role": "user", "content": "Hello"}]
TEXTS = ["Hello world", "", " \n\t", "ä🦜本 x", "<|im_start|>user\nHi<|im_end|>\n", "a" * 5000]


def tokenize(server: LiveServer, **fields: Any) -> dict[str, Any]:
    reply = server.post("/tokenize", {"model": "smollm2", **fields})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_from_its_tokens(server: LiveServer, text: str) -> None:
    found = tokenize(server, prompt=text)
    assert found["count"] == len(found["tokens"]) and found["max_model_len"] == 2048
    assert found["token_strs"] is None
    back = {"model": "smollm2", "tokens": found["tokens"]}
    assert server.post("/detokenize", back).json() == {"prompt": text}


def test_control_tokens_are_read_as_such_and_spelt_out(server: LiveServer) -> None:
    found = tokenize(server, prompt="a <|im_end|>", return_token_strs=True)
    assert found["tokens"][-1] == 2
    assert found["token_strs"] == ["a", "Ġ", "<|im_end|>"]
    reply = server.post("/detokenize", {"model": "smollm2", "tokens": found["tokens"]})
    assert reply.json() == {"prompt": "a <|im_end|>"}


def test_large_texts_are_refused_when_too_many_wait_and_hold_up_nobody(server: LiveServer) -> None:
    body = {"model": "smollm2", "prompt": "a" * 500_000}
    with ThreadPoolExecutor(24) as clients:
        replies = [clients.submit(server.post, "/tokenize", body, timeout=300) for _ in range(24)]
        assert tokenize(server, prompt="Hello")["count"] == 1
        chat = {"model": "smollm2", "messages": HELLO, "max_tokens": 1}
        assert server.post("/v1/chat/completions", chat).status_code == 200
        statuses = Counter(reply.result().status_code for reply in replies)
    assert set(statuses) == {200, 429} and statuses[200] >= 17


def test_who_leaves_before_the_answer_gives_the_place_back(server: LiveServer) -> None:
    counting = server.runtime.loaded_text_models()[SMOLLM2].prompts._counting
    body = msgspec.json.encode({"model": "smollm2", "prompt": "a" * 1_000_000})
    head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    port = int(server.url.rpartition(":")[2])
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
    for client in clients:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    server.wait_until(lambda _: counting.num_waiting > 5, timeout_s=60)
    for client in clients:
        client.close()
    server.wait_until(lambda _: not counting.num_waiting, timeout_s=60)


def test_the_tokenizer_is_described_by_name(server: LiveServer) -> None:
    info = httpx2.get(f"{server.url}/tokenizer_info", params={"model": "smollm2"}).json()
    assert info["model"] == SMOLLM2 and info["tokenizer_class"] == "gpt2"
    assert (info["bos_token"], info["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert info["model_max_length"] == 2048 and "im_start" in info["chat_template"]
    url = f"{server.url}/tokenizer_info?model=thinker"  # which is loaded for it
    thinker = httpx2.get(url, timeout=600).json()
    assert "enable_thinking" in thinker["chat_template"]  # models.toml has replaced it
