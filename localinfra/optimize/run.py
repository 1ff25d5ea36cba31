"""Starts the worker for a job, passes on what it says, and outlives whatever befalls it."""

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
    """There is no report; the message says why. `is_final`: it would fail again the next time."""

    def __init__(self, message: str, is_final: bool = False):
        super().__init__(message)
        self.is_final = is_final


def run(job: OptimizeJob, show: Callable[[Progress], None], limit_s: float | None = None) -> Report:
    """Runs the job in a process of its own; raises OptimizeFailed.

    Whoever leaves early, by Ctrl-C or by an error in `show`, ends the worker.
    """
    ran_out = threading.Event()
    at = ["starting"]  # what it was at last

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
            with process:  # which closes its pipes and waits for it
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
            raise OptimizeFailed(f"it was not done after {limit_s:.0f} s ({at[0]})")
        raise epitaph(process.returncode, log)


def converse(
    process: "subprocess.Popen[bytes]", job: OptimizeJob, show: Callable[[Progress], None]
) -> Event | None:
    """Returns the last event, or None for a worker that ended without one."""
    assert process.stdin and process.stdout
    try:
        # It stays open: a worker whose standard input ends has lost its parent, and ends too.
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        process.stdin.flush()
        for line in process.stdout:
            try:
                event: Event = events.decode(line)
            except msgspec.MsgspecError:  # a line that was cut, or that some library printed
                continue
            if not isinstance(event, Progress):
                return event
            show(event)
    except BrokenPipeError:  # it died at its start; its exit status tells
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
        # Whoever is short of memory kills; every other signal is llama.cpp's own doing.
        is_final = status != -signal.SIGKILL
        return OptimizeFailed(f"it ended with {signal.Signals(-status).name}{words}", is_final)
    return OptimizeFailed(f"it ended with status {status}{words}")
