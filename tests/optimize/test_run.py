"""A job in its own process: its progress, its crashes, and how it is paused and ended."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from children import started
from optimizing import PATCHED, job, left_over
from waiting import wait_for

from localinfra.optimize import run
from localinfra.optimize.job import OptimizeJob, Progress, Report
from localinfra.optimize.run import Control, OptimizeFailed

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
    assert not [name for name in left_over(cache) if name.startswith(".scratch")]
    assert run.run(job(q4_0), lambda progress: None).kept  # and the next one is not blocked
    assert len(left_over(cache)) == 2


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


# --- A job in the background ----------------------------------------------------------------------


def in_background(path: Path) -> OptimizeJob:
    return msgspec.structs.replace(job(path), is_background=True)


class Running:
    """A job in a thread of its own, up to its first progress."""

    def __init__(self, job: OptimizeJob, control: Control) -> None:
        self.shown: list[str] = []
        self.report: Report | None = None
        self.error: Exception | None = None
        self.may_go = threading.Event()
        self._job, self._control = job, control
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.report = run.run(self._job, self._show, self._control)
        except OptimizeFailed as error:
            self.error = error

    def _show(self, progress: Progress) -> None:
        self.shown.append(progress.text)
        assert self.may_go.wait(60)

    @property
    def pid(self) -> int:
        process = self._control._process
        assert process
        return process.pid


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.usefixtures("patched_worker")
def test_a_paused_job_stands_still_until_it_is_resumed(q4_0: Path) -> None:
    control = Control()
    running = Running(in_background(q4_0), control)
    wait_for(lambda: running.shown != [])
    control.pause()
    control.pause()
    wait_for(lambda: state_of(running.pid) == "T")
    running.may_go.set()
    control.resume()
    running.thread.join()
    assert running.report and running.report.kept and control.num_pauses == 1
    control.pause()  # it has ended: without effect
    control.end()


@pytest.mark.usefixtures("patched_worker")
def test_a_job_paused_before_it_has_started_waits_too(q4_0: Path) -> None:
    control = Control()
    control.pause()
    running = Running(in_background(q4_0), control)
    running.may_go.set()
    wait_for(lambda: control._process is not None and state_of(running.pid) == "T")
    control.resume()
    running.thread.join()
    assert running.report and running.report.kept


@pytest.mark.usefixtures("patched_worker")
@pytest.mark.parametrize("is_paused", [True, False])
def test_a_job_that_is_ended_leaves_nothing_behind(
    q4_0: Path, cache: Path, is_paused: bool
) -> None:
    control = Control()
    running = Running(in_background(q4_0), control)
    wait_for(lambda: running.shown != [])
    if is_paused:
        control.pause()
    control.end()
    running.may_go.set()
    running.thread.join()
    assert isinstance(running.error, OptimizeFailed) and not running.error.is_final
    # A file that was finished before is kept for the next start.
    assert all(name.endswith(".gguf") for name in left_over(cache))


def test_a_job_ended_before_it_has_started_never_runs(q4_0: Path) -> None:
    control = Control()
    control.end()
    with pytest.raises(OptimizeFailed, match="SIGKILL"):
        run.run(in_background(q4_0), lambda progress: None, control)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux has this class")
def test_it_runs_at_the_lowest_priority_in_a_group_of_its_own(
    q4_0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "COMMAND", [sys.executable, "-m", "localinfra.optimize.worker"])
    control = Control()
    running = Running(in_background(q4_0), control)
    wait_for(lambda: running.shown != [])
    assert os.sched_getscheduler(running.pid) == os.SCHED_IDLE
    assert os.getpriority(os.PRIO_PROCESS, running.pid) == 19
    assert os.getpgid(running.pid) == running.pid != os.getpgid(0)  # Ctrl-C does not reach it
    control.end()
    running.may_go.set()
    running.thread.join()


PARENT = """
import sys, threading, msgspec
from localinfra.optimize import run
from localinfra.optimize.job import OptimizeJob
run.COMMAND = [sys.executable, "-c", sys.argv[2]]
control = run.Control()
def show(progress):
    control.pause()
    print(control._process.pid, flush=True)
run.run(msgspec.json.decode(sys.argv[1], type=OptimizeJob), show, control)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_paused_job_ends_with_its_killed_parent(q4_0: Path) -> None:
    words = [msgspec.json.encode(in_background(q4_0)).decode(), PATCHED]
    with started([sys.executable, "-c", PARENT, *words], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        wait_for(lambda: state_of(pid) == "T")
        parent.kill()
        parent.wait()
        wait_for(lambda: not Path(f"/proc/{pid}").exists() or state_of(pid) in "XZ")


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    before = children()  # other tests may leave some running
    yield
    assert children() <= before


def children() -> set[str]:
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return set(listed.read_text().split()) if listed.exists() else set()
