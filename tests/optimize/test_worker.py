"""Whole measurements of tiny models: real llama.cpp, fake speeds."""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from models.tiny_gguf import tiny_gemma3, tiny_lfm2, tiny_llama, tiny_mamba

from localinfra import machine
from localinfra.llama.context import ContextSettings, LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.quantize import QuantizeFailed, quantize
from localinfra.models.gguf.reader import read_header
from localinfra.optimize import choose, run, speed, store, worker
from localinfra.optimize.bench import CannotMeasure
from localinfra.optimize.choose import Speed
from localinfra.optimize.job import OptimizeJob, Progress, Report
from localinfra.optimize.run import OptimizeFailed
from localinfra.optimize.store import CacheUnusable

# The worker with fake speeds, independent of the machine's load.
PATCHED = """
from localinfra.optimize import speed, worker
from localinfra.optimize.choose import Speed
def speeds(runners, original, *rest):
    rate = lambda name: 100.0 if name == original else 200.0
    return {name: Speed(*[rate(name)] * 3) for name in runners}, True
speed.speeds = speeds
worker.main()
"""


@pytest.fixture(scope="module")
def q4_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights fit Q8_0 exactly."""
    folder = tmp_path_factory.mktemp("models")
    quantize(tiny_llama().write(folder / "f32.gguf"), folder / "tiny.gguf", "q4_0", 1)
    return folder / "tiny.gguf"


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Type → tokens per second to report; other types are twice as fast as the original."""
    rates: dict[str, float] = {}

    def speeds(runners: dict[str, object], original: str, *_: object) -> object:
        found = {type: rates.get(type, 100 if type == original else 200) for type in runners}
        return {type: Speed(rate, rate, rate) for type, rate in found.items()}, "busy" not in rates

    monkeypatch.setattr(speed, "speeds", speeds)
    return rates


@pytest.fixture
def patched_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "COMMAND", [sys.executable, "-c", PATCHED])


def job(path: Path, lossless_only: bool = True, keep: bool = True) -> OptimizeJob:
    settings = ContextSettings(
        context_length=512, num_cells=512, num_sequences=3, batch_size=512, threads=1, kv_type="f16"
    )
    return OptimizeJob(source=str(path), settings=settings, lossless_only=lossless_only, keep=keep)


def work(job: OptimizeJob, shown: list[str] | None = None) -> Report:
    return worker.work(job, lambda part, text: (shown if shown is not None else []).append(text))


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".lock")


@pytest.mark.usefixtures("rates")
def test_faster_weights_without_loss_are_kept_and_can_be_served(q4_0: Path) -> None:
    shown: list[str] = []
    report = work(job(q4_0), shown)
    assert report.winner == "q8_0" and report.original.type == "q4_0"
    assert shown[0] == "writing Q8_0" and shown[-1] == "measuring loss"
    known = store.find(q4_0)
    assert known and known.path and str(known.path) == report.kept
    header, original = read_header(known.path), read_header(q4_0)
    assert choose.main_type(header) == "q8_0"
    assert header.metadata["general.name"] == original.metadata["general.name"]
    assert Model(known.path, ModelSettings()).can_generate


@pytest.mark.usefixtures("rates")
def test_a_full_report_has_every_type_and_keeps_nothing_unasked(q4_0: Path, cache: Path) -> None:
    report = work(job(q4_0, lossless_only=False, keep=False))
    assert [one.type for one in report.candidates] == ["q8_0", "f16"]
    reference = report.candidates[1]
    assert reference.loss and reference.loss.mean_kl == pytest.approx(0, abs=1e-6)
    assert report.winner and report.kept is None
    assert left_over(cache) == []


def test_without_a_gain_the_loss_is_not_measured_and_the_original_stays(
    q4_0: Path, rates: dict[str, float]
) -> None:
    rates["q8_0"] = 101
    report = work(job(q4_0))
    assert report.original.loss is None and report.kept is None
    known = store.find(q4_0)
    assert known and known.path is None and known.retry_at is None


def test_a_busy_machines_figures_are_not_recorded(q4_0: Path, rates: dict[str, float]) -> None:
    rates["busy"] = 1
    assert not work(job(q4_0)).is_steady
    assert store.find(q4_0) is None
    assert work(job(q4_0, lossless_only=False)).kept  # the user sees the figures


@pytest.mark.usefixtures("rates")
def test_the_same_file_elsewhere_is_not_measured_again(q4_0: Path, tmp_path: Path) -> None:
    first = work(job(q4_0))
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(q4_0.read_bytes())
    shown: list[str] = []
    assert work(job(copy), shown).kept == first.kept
    assert shown == []
    assert store.find(copy) and store.find(q4_0)


def test_a_file_without_candidates_is_decided_for_good(tmp_path: Path) -> None:
    path = tiny_llama().write(tmp_path / "f32.gguf")
    shown: list[str] = []
    assert "no type is both lossless" in work(job(path), shown).reason
    assert shown == []
    known = store.find(path)
    assert known and known.path is None and known.retry_at is None


@pytest.mark.usefixtures("rates")
@pytest.mark.parametrize(
    "make",
    [tiny_gemma3, tiny_mamba, tiny_lfm2, lambda: tiny_llama(experts=4)],
    ids=["swa", "mamba", "hybrid", "moe"],
)
def test_other_kinds_of_models_are_measured_too(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    path = make().write(tmp_path / "f32.gguf")
    report = work(job(path, lossless_only=False, keep=False))
    assert [one.type for one in report.candidates] == ["q8_0", "q4_0", "f16"]
    q8_0, q4_0, _ = report.candidates
    assert q8_0.loss and q4_0.loss and 0 < q8_0.loss.mean_kl < q4_0.loss.mean_kl
    assert not choose.is_lossless(q8_0, report.original)


def test_speeds_of_real_contexts_are_measured(q4_0: Path) -> None:
    report = work(job(q4_0, lossless_only=False, keep=False))
    for one in (report.original, *report.candidates):
        assert one.speed and min(one.speed.prompt, one.speed.one_stream, one.speed.streams) > 100


def test_a_model_with_a_short_context_can_not_be_measured(tmp_path: Path) -> None:
    f32 = tiny_llama(context_length=32).write(tmp_path / "f32.gguf")
    with pytest.raises(CannotMeasure, match="32 tokens"):
        work(job(f32, lossless_only=False))


def test_a_file_too_large_for_memory_is_refused(
    q4_0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 1000)
    with pytest.raises(CannotMeasure, match="of memory"):
        work(job(q4_0))


@pytest.mark.usefixtures("rates")
def test_a_file_that_changes_during_the_measurement_is_not_decided(
    q4_0: Path, tmp_path: Path
) -> None:
    path = tmp_path / "changing.gguf"
    path.write_bytes(q4_0.read_bytes())

    def change(part: float, text: str) -> None:
        os.utime(path, ns=(1, 1))

    with pytest.raises(CannotMeasure, match="changed during the measurement"):
        worker.work(job(path), change)
    assert store.find(path) is None


def test_an_unusable_cache_is_an_error(
    q4_0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(CacheUnusable):
        work(job(q4_0))
    with pytest.raises(OptimizeFailed, match="can't be written to"):
        run.run(job(q4_0), lambda progress: None)


def test_a_full_disk_is_a_failure(q4_0: Path, tmp_path: Path) -> None:
    program = (
        "import pathlib, resource, sys; from localinfra.llama.quantize import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: quantize(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), 'f16', 1)\n"
        "except QuantizeFailed as error: print(error)"
    )
    assert q4_0.stat().st_size > 20_000 and resource.RLIMIT_FSIZE
    ended = subprocess.run(
        [sys.executable, "-c", program, q4_0, tmp_path / "out.gguf"], capture_output=True, text=True
    )
    assert "could not be written as F16" in ended.stdout, ended.stderr


def test_a_source_that_llama_cpp_refuses_says_why(tmp_path: Path) -> None:
    with pytest.raises(QuantizeFailed, match="could not be written as Q8_0: "):
        quantize(tmp_path / "absent.gguf", tmp_path / "out.gguf", "q8_0", 1)


# --- The parent's side ----------------------------------------------------------------------------


@pytest.mark.usefixtures("patched_worker")
def test_a_worker_does_the_job_and_reports_progress(q4_0: Path) -> None:
    shown: list[Progress] = []
    report = run.run(job(q4_0), shown.append)
    assert report.winner == "q8_0" and report.kept
    parts = [progress.fraction for progress in shown]
    assert parts == sorted(parts) and parts[-1] == 1


@pytest.mark.usefixtures("patched_worker")
def test_two_workers_at_once_do_the_work_once(q4_0: Path, cache: Path) -> None:
    shown: list[list[str]] = [[], []]
    reports: list[Report] = []

    def start(texts: list[str]) -> None:
        reports.append(run.run(job(q4_0), lambda progress: texts.append(progress.text)))

    threads = [threading.Thread(target=start, args=(texts,)) for texts in shown]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({report.kept for report in reports}) == 1 and len(left_over(cache)) == 2
    assert sum("measuring speed" in texts for texts in shown) == 1


@pytest.mark.usefixtures("patched_worker")
@pytest.mark.parametrize("stage", ["writing Q8_0", "measuring speed", "measuring loss"])
def test_an_interruption_leaves_no_half_file_and_no_worker(
    q4_0: Path, cache: Path, stage: str
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.text == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(job(q4_0), interrupt)
    assert left_over(cache) == []
    assert run.run(job(q4_0), lambda progress: None).kept  # and the next one is not blocked


def test_a_worker_that_takes_too_long_is_ended(q4_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "import sys, time; sys.stdin.read(); time.sleep(60)"
    monkeypatch.setattr(run, "COMMAND", [sys.executable, "-c", endless])
    with pytest.raises(OptimizeFailed, match=r"not finish within 1 s"):
        run.run(job(q4_0), lambda progress: None, limit_s=1)


DEATHS = {
    "import os; os.abort()": ("SIGABRT", True),
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": ("SIGKILL", False),
    "raise ImportError('no llama_cpp')": ("no llama_cpp", False),
    "print('{'); print('[]')": ("status 0", False),
}


@pytest.mark.parametrize(("program", "words", "is_final"), [(k, *v) for k, v in DEATHS.items()])
def test_a_worker_that_dies_is_reported(
    q4_0: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str, is_final: bool
) -> None:
    monkeypatch.setattr(run, "COMMAND", [sys.executable, "-c", program])
    with pytest.raises(OptimizeFailed, match=words) as caught:
        run.run(job(q4_0), lambda progress: None)
    assert caught.value.is_final is is_final


def test_a_damaged_file_never_reaches_llama_cpp(q4_0: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    for data in (q4_0.read_bytes()[:-5000], b"GGUF" + bytes(100), b""):
        damaged.write_bytes(data)
        with pytest.raises(OptimizeFailed, match=r"damaged\.gguf "):
            run.run(job(damaged), lambda progress: None)


def test_contexts_are_closed(q4_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[LlamaContext] = []
    real = LlamaContext.__init__

    def note(self: LlamaContext, model: Model, settings: ContextSettings) -> None:
        real(self, model, settings)
        opened.append(self)

    monkeypatch.setattr(LlamaContext, "__init__", note)
    work(job(q4_0, keep=False))
    assert opened and not any(context._pointer for context in opened)


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    yield
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if children.exists():
        assert not children.read_text().split()
