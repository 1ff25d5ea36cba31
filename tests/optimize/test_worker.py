"""Whole measurements of tiny models: real llama.cpp, fake speeds."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from models.tiny_gguf import tiny_gemma3, tiny_llama, tiny_mamba
from models.tiny_hybrids import tiny_lfm2
from optimizing import job, left_over

from localinfra import machine
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.quantize import QuantizeFailed, quantize
from localinfra.llama.settings import ContextSettings
from localinfra.models.gguf.reader import read_header
from localinfra.optimize import bench, choose, run, speed, store, worker
from localinfra.optimize.bench import CannotMeasure
from localinfra.optimize.choose import Speed
from localinfra.optimize.job import OptimizeJob, Report
from localinfra.optimize.run import OptimizeFailed
from localinfra.optimize.store import CacheUnusable


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Type → tokens per second to report; other types are twice as fast as the original."""
    rates: dict[str, float] = {}

    def speeds(runners: dict[str, object], original: str, *_: object) -> object:
        found = {type: rates.get(type, 100 if type == original else 200) for type in runners}
        return {type: Speed(rate, rate, rate) for type, rate in found.items()}, "busy" not in rates

    monkeypatch.setattr(speed, "speeds", speeds)
    return rates


def work(job: OptimizeJob, shown: list[str] | None = None) -> Report:
    return worker.work(job, lambda part, text: (shown if shown is not None else []).append(text))


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


@pytest.mark.usefixtures("rates")
def test_an_interrupted_job_goes_on_with_the_weights_it_has_written(
    q4_0: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(part: float, text: str) -> None:
        if text == "measuring loss":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.work(job(q4_0), interrupt)
    [made] = cache.glob("*.q8_0-*.gguf")
    written: list[str] = []

    def note(source: Path, target: Path, type: str, threads: int) -> None:
        written.append(type)
        quantize(source, target, type, threads)

    monkeypatch.setattr(bench, "quantize", note)
    before = made.stat().st_mtime_ns
    assert work(job(q4_0)).kept == str(made)
    assert written == ["f16"] and made.stat().st_mtime_ns == before


@pytest.mark.usefixtures("rates")
@pytest.mark.parametrize("data", [b"", b"GGUF" + bytes(100)])
def test_weights_that_were_damaged_since_are_written_again(
    q4_0: Path, cache: Path, data: bytes
) -> None:
    identity = store.identify(q4_0)
    place = store.place_of(identity, store.digest_of(q4_0), "q8_0")
    cache.mkdir(parents=True)
    place.write_bytes(data)
    assert work(job(q4_0)).kept == str(place)
    assert choose.main_type(read_header(place)) == "q8_0"


def test_weights_that_are_no_faster_are_not_kept(
    q4_0: Path, cache: Path, rates: dict[str, float]
) -> None:
    rates.update(q8_0=101, busy=1)
    work(job(q4_0))
    assert len(list(cache.glob("*.gguf"))) == 1  # for the next try
    del rates["busy"]
    work(job(q4_0))
    assert not list(cache.glob("*.gguf"))


def test_contexts_are_closed(q4_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[LlamaContext] = []
    real = LlamaContext.__init__

    def note(self: LlamaContext, model: Model, settings: ContextSettings) -> None:
        real(self, model, settings)
        opened.append(self)

    monkeypatch.setattr(LlamaContext, "__init__", note)
    work(job(q4_0, keep=False))
    assert opened and not any(context._pointer for context in opened)
