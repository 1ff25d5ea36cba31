"""A seed promises the same text: alone, in company, whatever is cached, after a restart."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from live import CATALOGUE, SMOLLM2, LiveServer

SUBJECTS = [
    "rivers", "bread", "the moon", "trains", "a lighthouse", "chess", "bees", "glass", "rain",
    "libraries", "salt", "bridges", "clocks", "owls", "maps",
]  # fmt: skip
ESSAY = "Tell me more about it, and then even more. " * 20


def seeded(number: int) -> dict[str, Any]:
    """Requests of all lengths, greedy ones among them; some begin alike."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    content = f"Write about {subject}." + (ESSAY[: 40 * (number % 7) ** 2] if number % 3 else "")
    return {
        "model": SMOLLM2,
        "messages": [{"role": "user", "content": content}],
        "seed": number,
        "temperature": 0 if number % 4 == 3 else 1,
        "max_tokens": 16 + number % 17,
    }


def company(number: int) -> dict[str, Any]:
    """A request that names no seed."""
    chance = random.Random(number)
    content = f"{number} {chance.choice(SUBJECTS)} " + ESSAY[: chance.randrange(800)]
    return {
        "model": SMOLLM2,
        "messages": [{"role": "user", "content": content}],
        "n": chance.choice([1, 1, 2]),
        "max_tokens": chance.randrange(2, 24),
        "temperature": chance.choice([0, 1]),
    }


def answer(server: LiveServer, body: dict[str, Any]) -> str:
    reply = server.post("/v1/chat/completions", body)
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], LiveServer]:
    (tmp_path / "models.toml").write_text(CATALOGUE)
    return lambda: LiveServer(tmp_path / "models.toml")


def rounds(start: Callable[[], LiveServer], numbers: list[int], num_rounds: int) -> None:
    """The texts of a fresh server, one by one, against those of other days."""
    server = start()
    try:
        alone = [answer(server, seeded(number)) for number in numbers]
        again = [answer(server, seeded(number)) for number in reversed(numbers)]
        assert again[::-1] == alone
    finally:
        server.close()
    server = start()
    try:
        for attempt in range(num_rounds):
            order = random.Random(attempt).sample(numbers, len(numbers))
            bodies = [seeded(number) for number in order]
            at = 1000 * attempt
            mixed = [b for i, body in enumerate(bodies) for b in (company(at + i), body)]
            with ThreadPoolExecutor(9) as pool:
                texts = list(pool.map(lambda body: answer(server, body), mixed))[1::2]
            assert dict(zip(order, texts, strict=True)) == dict(zip(numbers, alone, strict=True))
    finally:
        server.close()


def test_seeded_answers_are_the_same_alone_in_company_and_after_a_restart(
    start: Callable[[], LiveServer],
) -> None:
    rounds(start, list(range(8)), 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_seeded_answers_are_the_same_six_times(start: Callable[[], LiveServer]) -> None:
    rounds(start, list(range(30)), 6)


def test_one_choice_is_the_first_of_several(server: LiveServer) -> None:
    body = seeded(5)
    one = answer(server, body)
    several = server.post("/v1/chat/completions", {**body, "n": 4}).json()["choices"]
    assert several[0]["message"]["content"] == one
    assert len({choice["message"]["content"] for choice in several}) > 1


def test_a_scored_prompt_has_the_same_scores_every_time(server: LiveServer) -> None:
    body = {
        "model": SMOLLM2, "prompt": ESSAY + "The river begins in the mountains. " * 9,
        "echo": True, "logprobs": 3, "max_tokens": 1, "temperature": 0,
    }  # fmt: skip

    def scores() -> Any:
        reply = server.post("/v1/completions", body)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["logprobs"]

    first = scores()
    with ThreadPoolExecutor(4) as pool:
        beside = [pool.submit(answer, server, company(number)) for number in range(8)]
        assert scores() == first
        for future in beside:
            future.result()
    assert scores() == first
