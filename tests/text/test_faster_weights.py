"""When faster weights are looked for, and what becomes of the model; the measurement is a fake."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from models.tiny_gguf import tiny_llama
from waiting import run, until

from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.optimize import run as optimize_run
from localinfra.optimize import store
from localinfra.optimize.choose import MeasuredType
from localinfra.optimize.job import OptimizeJob, Progress, Report
from localinfra.optimize.run import Control, OptimizeFailed
from localinfra.text import faster_weights, loading, quiet
from localinfra.text.faster_weights import FasterWeights
from localinfra.text.quiet import FOR_OTHERS, FOR_REQUESTS, Quiet

ORIGINAL = MeasuredType("q4_0", 1000)
SAME = Report(original=ORIGINAL, reason="no other type is enough faster")
BUSY = Report(original=ORIGINAL, reason="", is_steady=False)


class Server:
    """What a search knows of its server."""

    def __init__(self, folder: Path, names: str = "a") -> None:
        self.is_busy = False
        self.idle_cores: float | None = None
        self.renewed: list[str] = []
        self.may_renew = True
        self.error: Exception | None = None  # raised by `renew`
        self.entries = {name: entry(folder, name) for name in names}
        self.search = self.start()

    def start(self, may_renew: bool = True) -> FasterWeights:
        now = Quiet(lambda: self.is_busy, lambda: self.idle_cores)
        return FasterWeights(self.entries, now, self.renew if may_renew else None)

    async def renew(self, name: str) -> bool:
        if self.error:
            raise self.error
        self.renewed.append(name)
        return self.may_renew

    def file(self, name: str = "a") -> Path:
        path = self.entries[name].source.find()
        assert path
        return path


class Measurer:
    """Stands for the process: gives the reports in turn, once each `may_end`."""

    def __init__(self) -> None:
        self.reports: list[Report | Exception] = []
        self.jobs: list[OptimizeJob] = []
        self.controls: list[Control] = []
        self.may_end = threading.Event()
        self.may_end.set()

    def run(self, job: OptimizeJob, show: Callable[[Progress], None], control: Control) -> Report:
        self.jobs.append(job)
        self.controls.append(control)
        show(Progress(0.2, "measuring speed"))
        while not self.may_end.wait(0.001) or control.is_paused:
            if control._is_ended:
                raise OptimizeFailed("it ended with SIGKILL")
        report = self.reports.pop(0)
        if isinstance(report, Exception):
            raise report
        return report


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(quiet, "QUIET_S", 0.02)
    for module in (quiet, faster_weights):
        monkeypatch.setattr(module, "CHECK_S", 0.001)
    monkeypatch.setattr(faster_weights, "FIRST_RETRY_S", 0.01)


@pytest.fixture
def measurer(monkeypatch: pytest.MonkeyPatch) -> Measurer:
    found = Measurer()
    monkeypatch.setattr(optimize_run, "run", found.run)
    return found


@pytest.fixture
def server(tmp_path: Path, measurer: Measurer) -> Server:
    return Server(tmp_path)


def entry(folder: Path, name: str) -> TextModelEntry:
    path = tiny_llama().write(folder / f"{name}.gguf")
    return TextModelEntry(source=PathSource(path), optimize="lossless", gpu_layers=0)


def better(server: Server, name: str = "a") -> Report:
    """The report of a measurement that has found and kept faster weights."""
    return Report(original=ORIGINAL, reason="Q8_0 is faster", kept=str(server.file(name)))


def decide(path: Path, weights: bytes | None = None) -> None:
    """Records that these weights are served in place of the file's, or the file's own."""
    with store.locked(lambda holder: None), store.scratch(0) as scratch:
        made = scratch / "made.gguf"
        made.write_bytes(weights or b"")
        chosen = ("q8_0", made) if weights else None
        digest = store.digest_of(path)
        known = store.decide(store.identify(path), digest, "measured", chosen)
        store.keep(known, made if weights else None)


def test_faster_weights_are_measured_in_the_background_and_then_served(
    server: Server, measurer: Measurer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    measurer.reports = [better(server)]
    assert server.search.states() == {"a": FOR_REQUESTS}
    run(server.search.run)
    [job] = measurer.jobs
    assert job.is_background and job.keep and job.lossless_only
    assert server.renewed == ["a"] and server.search.states() == {"a": "Q8_0 is faster"}
    first, last = caplog.messages
    assert "while no request runs" in first and 'optimize = "off"' in first
    assert last == "a: Q8_0 is faster; served from now on"


def test_without_faster_weights_the_original_stays(server: Server, measurer: Measurer) -> None:
    measurer.reports = [SAME]
    run(server.search.run)
    assert not server.renewed and server.search.states() == {"a": SAME.reason}


@pytest.mark.parametrize("weights", [None, b"other"])
def test_what_is_decided_is_not_measured_again(
    server: Server, measurer: Measurer, weights: bytes | None
) -> None:
    decide(server.file(), weights)
    run(server.search.run)
    assert not measurer.jobs and server.search.states() == {"a": "measured"}


def test_only_present_text_models_with_optimize_on_are_measured(
    server: Server, measurer: Measurer
) -> None:
    off = TextModelEntry(source=server.entries["a"].source)
    assert faster_weights.optimized({**server.entries, "off": off}) == server.entries
    server.file().unlink()
    run(server.search.run)
    assert not measurer.jobs and server.search.states() == {"a": "its file is missing"}


def test_requests_pause_the_measurement_and_it_goes_on_after_them(
    server: Server, measurer: Measurer
) -> None:
    measurer.reports = [better(server)]
    measurer.may_end.clear()

    async def test() -> None:
        searching = asyncio.create_task(server.search.run())
        await until(lambda: bool(measurer.controls))
        [control] = measurer.controls
        await until(lambda: server.search.states() == {"a": "measuring speed"})
        server.search.make_way()
        assert control.is_paused  # at once
        server.is_busy = True
        assert server.search.states() == {"a": "measuring speed (paused while requests run)"}
        measurer.may_end.set()
        for _ in range(50):
            await asyncio.sleep(0.001)
            assert control.is_paused and not searching.done()
        server.is_busy = False
        await searching
        assert len(measurer.jobs) == 1 and server.renewed == ["a"]

    run(test)


def test_nothing_starts_while_requests_run_or_other_programs_use_the_cores(
    server: Server, measurer: Measurer
) -> None:
    measurer.reports = [SAME]
    server.is_busy, server.idle_cores = True, 1000.0

    async def test() -> None:
        searching = asyncio.create_task(server.search.run())

        async def stays(obstacle: str) -> None:
            await until(lambda: server.search.states() == {"a": obstacle})
            for _ in range(50):
                await asyncio.sleep(0.001)
                assert server.search.states() == {"a": obstacle} and not measurer.jobs

        await stays(FOR_REQUESTS)
        server.is_busy, server.idle_cores = False, 0.0
        await stays(FOR_OTHERS)
        server.idle_cores = 1000.0
        await searching
        assert len(measurer.jobs) == 1

    run(test)


def test_a_machine_that_stays_busy_is_told_once(
    server: Server,
    measurer: Measurer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faster_weights, "BUSY_CHECKS", 5)
    caplog.set_level(logging.INFO)
    measurer.reports = [SAME]
    server.idle_cores = 0.0

    async def test() -> None:
        searching = asyncio.create_task(server.search.run())
        await until(lambda: FOR_OTHERS in caplog.text)
        for _ in range(20):
            await asyncio.sleep(0.001)
        server.idle_cores = None
        await searching

    run(test)
    assert caplog.text.count(FOR_OTHERS) == 1


def test_a_disturbed_measurement_is_repeated_until_one_is_not(
    server: Server, measurer: Measurer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    measurer.reports = [BUSY, BUSY, BUSY, better(server)]
    run(server.search.run)
    assert len(measurer.jobs) == 4 and server.renewed == ["a"]
    assert caplog.text.count("too busy to measure") == 1
    assert store.find(server.file()) is None  # the next start would try again too


def test_pauses_between_disturbed_measurements_grow_unless_requests_disturbed_it(
    server: Server,
) -> None:
    search = server.search._searches["a"]
    waits = []
    for _ in range(20):
        before = time.monotonic()
        server.search._retry("a", search, was_paused=False)
        waits.append(round(search.due_at - before, 2))
    assert waits == sorted(waits) and waits[-1] > 30 * waits[0]
    assert waits[-1] <= faster_weights.MAX_RETRY_S + 1
    due_at = search.due_at
    server.search._retry("a", search, was_paused=True)
    assert search.due_at == due_at and search.state == FOR_REQUESTS


def test_a_final_failure_is_remembered(server: Server, measurer: Measurer) -> None:
    measurer.reports = [OptimizeFailed("it ended with SIGABRT", is_final=True)]
    run(server.search.run)
    known = store.find(server.file())
    assert known and known.is_put_off and known.retry_at is None
    server.search = server.start()
    run(server.search.run)
    assert len(measurer.jobs) == 1
    assert server.search.states() == {"a": "failed: it ended with SIGABRT"}


def test_a_failure_that_may_pass_is_tried_again_later_also_after_a_restart(
    server: Server, measurer: Measurer, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurer.reports = [OptimizeFailed("memory is short")]

    async def test() -> None:
        for _ in range(2):
            searching = asyncio.create_task(server.search.run())
            await until(lambda: server.search.states() == {"a": "failed: memory is short"})
            assert not searching.done()
            searching.cancel()
            server.search = server.start()
        assert len(measurer.jobs) == 1
        monkeypatch.setattr(store, "RETRY_AFTER_S", 0)
        store.put_off(server.file(), "memory is short", is_final=False)
        measurer.reports = [SAME]
        await server.search.run()

    run(test)
    assert len(measurer.jobs) == 2


def test_a_clock_that_was_set_back_does_not_put_it_off_for_years(
    server: Server, measurer: Measurer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RETRY_AFTER_S", 10**9)
    store.put_off(server.file(), "memory is short", is_final=False)
    monkeypatch.setattr(store, "RETRY_AFTER_S", 0)
    measurer.reports = [SAME]
    run(server.search.run)
    assert len(measurer.jobs) == 1


@pytest.mark.parametrize("data", [b"", b"GGUF" + bytes(100)])
def test_files_that_can_not_be_measured_are_left_to_loading(
    server: Server, measurer: Measurer, data: bytes
) -> None:
    path = server.file()
    path.write_bytes(data)
    run(server.search.run)
    assert not measurer.jobs and str(path) in server.search.states()["a"]
    assert store.find(path) is None


def test_a_model_on_a_gpu_is_not_measured(
    server: Server, measurer: Measurer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "computes_on_gpu", lambda entry: True)
    run(server.search.run)
    assert not measurer.jobs and "runs on the GPU" in server.search.states()["a"]


def test_with_a_default_seed_faster_weights_wait_for_the_next_start(
    server: Server, measurer: Measurer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    measurer.reports = [better(server)]
    run(server.start(may_renew=False).run)
    assert not server.renewed and "from the next start" in caplog.text


def test_without_memory_for_both_models_they_wait_for_the_next_load(
    server: Server, measurer: Measurer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.may_renew = False
    measurer.reports = [better(server)]
    run(server.search.run)
    assert "served when it is loaded next" in caplog.text


def test_weights_that_can_not_be_loaded_are_given_up(server: Server, measurer: Measurer) -> None:
    decide(server.file(), b"damaged")
    server.file().touch()  # as if measured just now
    measurer.reports = [better(server)]
    server.error = RuntimeError("llama.cpp refused them")
    run(server.search.run)
    known = store.find(server.file())
    assert known and known.path is None and "refused them" in known.reason


def test_models_are_measured_in_turn_and_a_failure_is_one_models_own(
    tmp_path: Path, measurer: Measurer
) -> None:
    server = Server(tmp_path, "abc")
    measurer.reports = [BUSY, ZeroDivisionError("a bug"), better(server, "c"), SAME]
    run(server.search.run)
    assert [Path(job.source).stem for job in measurer.jobs] == ["a", "b", "c", "a"]
    assert server.renewed == ["c"] and server.search.states() == {
        "a": SAME.reason,
        "b": "failed: a bug",
        "c": "Q8_0 is faster",
    }


@pytest.mark.parametrize("is_paused", [True, False])
def test_a_shutdown_ends_the_measurement(
    server: Server, measurer: Measurer, is_paused: bool
) -> None:
    measurer.may_end.clear()

    async def test() -> None:
        searching = asyncio.create_task(server.search.run())
        await until(lambda: bool(measurer.controls))
        if is_paused:
            server.search.make_way()
        searching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await searching
        assert measurer.controls[0]._is_ended and store.find(server.file()) is None

    run(test)
