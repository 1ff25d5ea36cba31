"""Starts the worker for a job, passes on its progress, and survives its crashes."""

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import IO

import msgspec

from localinfra.optimize import store
from localinfra.optimize.job import Done, Event, JobFailed, OptimizeJob, Progress, Report

events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
COMMAND = [sys.executable, "-m", "localinfra.optimize.worker"]


class OptimizeFailed(Exception):
    """There is no report; the message says why. `is_final`: it would fail again next time."""

    def __init__(self, message: str, is_final: bool = False):
        super().__init__(message)
        self.is_final = is_final


def run(job: OptimizeJob, show: Callable[[Progress], None], limit_s: float | None = None) -> Report:
    """Runs the job in its own process, which ends with this call, even at Ctrl-C or an error in
    `show`. Raises OptimizeFailed if there is no report."""
    ran_out = threading.Event()
    at = ["starting"]  # the last progress text

    def note(progress: Progress) -> None:
        at[0] = progress.text
        show(progress)

    with tempfile.TemporaryFile() as log:
        pipe = subprocess.PIPE
        process = subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=log)

        def end() -> None:
            ran_out.set()
            process.kill()

        timer = threading.Timer(limit_s or 0, end)
        timer.daemon = True
        if limit_s:
            timer.start()
        try:
            with process:  # closes its pipes and waits for it
                last = converse(process, job, note)
        finally:
            timer.cancel()
            store.sweep_if_free()
        match last:
            case Done():
                return last.report
            case JobFailed():
                raise OptimizeFailed(last.message)
        if ran_out.is_set():
            raise OptimizeFailed(f"the measurement did not finish within {limit_s:.0f} s ({at[0]})")
        raise epitaph(process.returncode, log)


def converse(
    process: "subprocess.Popen[bytes]", job: OptimizeJob, show: Callable[[Progress], None]
) -> Event | None:
    """Returns the last event, or None if the worker ended without one."""
    assert process.stdin and process.stdout
    try:
        # Stays open: the worker ends at EOF on its stdin.
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        process.stdin.flush()
        for line in process.stdout:
            try:
                event: Event = events.decode(line)
            except msgspec.MsgspecError:  # a truncated line, or a library's output
                continue
            if not isinstance(event, Progress):
                return event
            show(event)
    except BrokenPipeError:  # it died at the start; its exit status says why
        pass
    except BaseException:
        process.kill()
        raise
    return None


def epitaph(status: int, log: IO[bytes]) -> OptimizeFailed:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    words = f": {lines[-1]}" if lines else ""
    if status < 0:
        # SIGKILL comes from the kernel when memory runs out, any other signal from llama.cpp.
        is_final = status != -signal.SIGKILL
        return OptimizeFailed(
            f"the measurement ended with {signal.Signals(-status).name}{words}", is_final
        )
    return OptimizeFailed(f"the measurement ended with status {status}{words}")
