"""Many clients at once, some of whom leave."""

import asyncio
import json
import random
import socket
import threading
import time
from typing import Any

import openai
import pytest
from live import SMOLLM2, LiveServer

from localinfra.engine.kvcache import KVCache
from localinfra.engine.radix import Prefix
from localinfra.llama.context import LlamaContext

# Continuations that leave no doubt: near-ties may flip with the shape of a batch, these may not.
CONFIDENT = [
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,",
    "a b c d a b c d a b c d a b c d a b c d a b c",
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday,",
    "the cat sat. the cat sat. the cat sat. the cat sat. the cat",
]


def accounting(server: LiveServer) -> tuple[KVCache, LlamaContext]:
    engine: Any = server.runtime.loaded_text_models()[SMOLLM2].worker
    return engine._scheduler.cache, engine._backend


def test_32_mixed_requests_all_complete_and_the_cells_are_accounted_for(
    server: LiveServer, client: openai.OpenAI
) -> None:
    def alone(prompt: str) -> str:
        answer = client.completions.create(
            model="smollm2", prompt=prompt, max_tokens=24, temperature=0
        )
        return answer.choices[0].text

    expected = {prompt: alone(prompt) for prompt in CONFIDENT}
    chance = random.Random(7)

    async def one(client: openai.AsyncOpenAI, index: int) -> None:
        prompt = CONFIDENT[index % 4]
        if index % 4 == 3:  # leaves midway
            stream = await client.chat.completions.create(
                model="smollm2", messages=[{"role": "user", "content": f"Story {index}"}],
                max_tokens=200, stream=True,
            )  # fmt: skip
            leaves_after = chance.randint(0, 20)
            async for number, _ in enumerate_async(stream):
                if number >= leaves_after:
                    await stream.close()
                    return
        elif index % 4 == 2:
            answer = await client.chat.completions.create(
                model="smollm2", messages=[{"role": "user", "content": "x " * index}],
                max_tokens=20, n=2, logprobs=True, frequency_penalty=0.5, stop=["."],
            )  # fmt: skip
            assert len(answer.choices) == 2
        else:
            completion = await client.completions.create(
                model="smollm2", prompt=prompt, max_tokens=24, temperature=0
            )
            assert completion.choices[0].text == expected[prompt]

    async def all_at_once() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
            await asyncio.gather(*(one(client, index) for index in range(32)))

    asyncio.run(all_at_once())
    server.wait_until_idle()
    time.sleep(0.05)
    cache, context = accounting(server)
    assert cache.num_used == cache.num_cached == server.stats.kv_used
    for slot in range(context.num_slots):  # llama.cpp holds exactly what the prefix tree says
        assert context.held(slot) == len(cache._recorded.get(slot, Prefix([])).tokens)


async def enumerate_async(stream: Any) -> Any:
    number = 0
    async for item in stream:
        yield number, item
        number += 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_client_that_leaves_frees_its_place(server: LiveServer, stream: bool, phase: str) -> None:
    server.wait_until_idle()
    text = f"{phase} {stream} " + "word " * (1500 if phase == "prefill" else 1)
    body = json.dumps(
        {"model": "smollm2", "messages": [{"role": "user", "content": text}],
         "max_tokens": 2000, "stream": stream, "logit_bias": {"2": -100, "0": -100}}
    ).encode()  # fmt: skip
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        server.wait_until(lambda stats: stats.num_running == 1)
        if phase == "decode":
            steps = server.stats.num_steps
            server.wait_until(lambda stats: stats.num_steps > steps + 5)
    steps = server.stats.num_steps
    server.wait_until_idle()
    assert server.stats.num_steps - steps < 20  # of hundreds: the cancel came at the next step


def test_health_answers_at_once_under_full_load(server: LiveServer, client: openai.OpenAI) -> None:
    import httpx2

    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            client.chat.completions.create(
                model="smollm2", messages=[{"role": "user", "content": "word " * 400}],
                max_tokens=16, n=4,
            )  # fmt: skip

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    server.wait_until(lambda stats: stats.num_running >= 4)
    with httpx2.Client() as http:
        for _ in range(30):  # answered while sequences run: nothing waits for the engine
            health = http.get(server.url + "/health").json()
            assert health["status"] == "ok"
            time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    server.wait_until_idle()
