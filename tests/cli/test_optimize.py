"""`localinfra optimize`, and serving what was kept."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from models.tiny_gguf import tiny_llama

from localinfra.cli import optimize as command
from localinfra.cli import serve
from localinfra.cli.main import main
from localinfra.config import settings as config_file
from localinfra.errors import ConfigError
from localinfra.llama.model import Model
from localinfra.llama.quantize import quantize
from localinfra.models import catalog
from localinfra.models.entries import TextModelEntry
from localinfra.optimize import run, store
from localinfra.optimize.choose import Loss, MeasuredType, Speed
from localinfra.optimize.job import OptimizeJob, Progress, Report
from localinfra.optimize.run import OptimizeFailed
from localinfra.text import loading

REPORT = Report(
    original=MeasuredType("q4_1", 98_362_432, Speed(306, 127, 200), Loss(0.0026, 19.593, 0.0)),
    candidates=(
        MeasuredType("q4_0", 91_726_912, Speed(900, 230, 340), Loss(0.2512, 23.03, 0.53)),
        MeasuredType("q8_0", 144_811_072, Speed(642, 150, 272), Loss(0.0029, 19.71, 0.05)),
    ),
    reason="Q8_0 is 1.41 times as fast",
    winner="q8_0",
)
Show = Callable[[Progress], None]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of a model with `optimize` on, one with it off, and one whose file is missing."""
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    quantize(tiny_llama().write(tmp_path / "f32.gguf"), tmp_path / "tiny.gguf", "q4_0", 1)
    (tmp_path / "models.toml").write_text(
        '[model.fast]\nkind = "text"\nsource = "tiny.gguf"\naliases = ["f"]\n'
        'optimize = "lossless"\ngpu_layers = 0\n'
        '[model.plain]\nkind = "text"\nsource = "f32.gguf"\n'
        '[model.absent]\nkind = "text"\nsource = "absent.gguf"\noptimize = "lossless"\n'
        '[model.vectors]\nkind = "embedding"\nsource = "hf:a/b"\n'
    )
    return tmp_path / "models.toml"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[OptimizeJob]:
    """The jobs that would have run; each gets REPORT."""
    jobs: list[OptimizeJob] = []

    def answer(job: OptimizeJob, show: Show, limit_s: float | None = None) -> Report:
        jobs.append(job)
        show(Progress(0.5, "measuring speed"))
        return REPORT

    monkeypatch.setattr(command, "run", answer)
    monkeypatch.setattr(run, "run", answer)
    return jobs


def optimize(models: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["optimize", *arguments, "--config", str(models)])


def entry(models: Path, name: str) -> TextModelEntry:
    found = catalog.load(config_file.load(models)).entries[name]
    assert isinstance(found, TextModelEntry)
    return found


def test_the_table_says_what_each_number_means_and_what_to_do_next(
    models: Path, jobs: list[OptimizeJob]
) -> None:
    result = optimize(models, "f")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["TYPE", "SIZE", "PROMPT", "1", "STREAM", "8", "STREAMS", "SPEED", "KL", "PERPLEXITY"],
        ["Q4_1", "98", "MB", "306", "127", "200", "1.00", "0.0026", "19.59", "now"],
        ["Q4_0", "92", "MB", "900", "230", "340", "2.01", "0.2512", "23.03", "±", "1.06"],
        ["Q8_0", "145", "MB", "642", "150", "272", "1.41", "0.0029", "19.71", "±", "0.10",
         "lossless"],
    ]  # fmt: skip
    assert "tokens per second" in result.stdout and "lossless  " in result.stdout
    assert lines[-2:] == [
        "Q8_0 is 1.41 times as fast.",
        "Keep it: localinfra optimize fast --apply",
    ]
    assert "measuring speed" in result.stderr
    assert not jobs[0].keep and not jobs[0].lossless_only


def test_apply_keeps_the_winner_and_says_how_it_is_served(
    models: Path, jobs: list[OptimizeJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Report(
        original=REPORT.original, candidates=(), reason="q", winner="q8_0", kept="/x.gguf"
    )

    def run(job: OptimizeJob, show: object) -> Report:
        jobs.append(job)
        return kept

    monkeypatch.setattr(command, "run", run)
    assert "Saved as /x.gguf" in optimize(models, "fast", "--apply").stdout
    printed = optimize(models, "plain", "--apply").stdout
    assert 'with optimize = "lossless" in [model."plain"]' in printed
    assert all(job.keep for job in jobs)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody", "does not exist"),
        ("vectors", "vectors is an embedding model"),
        ("absent", "there is nothing at"),
    ],
)
def test_a_model_that_can_not_be_measured_is_a_one_line_error(
    models: Path, name: str, words: str
) -> None:
    result = optimize(models, name)
    assert result.exit_code == 1 and words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_damaged_file_is_refused_before_any_measurement(
    models: Path, jobs: list[OptimizeJob]
) -> None:
    (models.parent / "tiny.gguf").write_bytes(b"GGUF" + bytes(100))
    result = optimize(models, "fast")
    assert result.exit_code == 1 and "tiny.gguf" in result.stderr and not jobs


def test_a_model_on_the_gpu_is_not_measured(
    models: Path, jobs: list[OptimizeJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda: {"cuda:0": 8 << 30})
    assert "runs on the GPU" in optimize(models, "plain").stderr and not jobs
    assert optimize(models, "fast").exit_code == 0 and jobs  # gpu_layers = 0


def test_a_failure_is_one_line(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: OptimizeJob, show: Show) -> Report:
        raise OptimizeFailed("it ended with SIGABRT")

    monkeypatch.setattr(command, "run", fail)
    result = optimize(models, "fast")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "error: fast could not be measured: it ended with SIGABRT"
    )


def test_an_address_in_use_is_found_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="--port"):
            serve.take_address("127.0.0.1", port)
    (listener,) = serve.take_address("127.0.0.1", port)
    with listener, pytest.raises(ConfigError, match="--port"):  # of two that start together
        serve.take_address("127.0.0.1", port)


# --- Serving what was kept ------------------------------------------------------------------------


def kept(models: Path, data: bytes) -> Path:
    """Decides on other weights for the model called fast."""
    source = models.parent / "tiny.gguf"
    with store.locked(lambda holder: None), store.scratch(0) as scratch:
        made = scratch / "made.gguf"
        made.write_bytes(data)
        decision = store.decide(
            store.identify(source), store.digest_of(source), "better", ("q8_0", made)
        )
        store.keep(decision, made)
    assert decision.path
    return decision.path


def test_kept_weights_are_served_if_optimize_is_on(models: Path) -> None:
    path = kept(models, (models.parent / "f32.gguf").read_bytes())
    found, header = loading.weights("fast", entry(models, "fast"))
    assert found == path and header.path == str(path)
    model = loading.load_text_model("fast", entry(models, "fast"), 8)
    assert isinstance(model.vocabulary, Model) and model.vocabulary.path == path
    model.close()
    plain = entry(models, "plain")
    assert loading.weights("plain", plain)[0] == models.parent / "f32.gguf"


def test_on_a_gpu_the_original_is_served(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(models, (models.parent / "f32.gguf").read_bytes())
    monkeypatch.setattr(loading, "computes_on_gpu", lambda entry: True)
    assert loading.weights("fast", entry(models, "fast"))[0] == models.parent / "tiny.gguf"


def test_damaged_kept_weights_are_not_served(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept(models, b"GGUF" + bytes(500))
    assert loading.weights("fast", entry(models, "fast"))[0] == models.parent / "tiny.gguf"
    assert "the original is served" in caplog.text
