"""Starts the worker for a job, passes on its progress, and survives its crashes."""

import signal
import subprocess
import threading
from collections.abc import Callable
from typing import IO

import msgspec

from localinfra.children import OWN_GROUP, module_command
from localinfra.optimize import store
from localinfra.optimize.job import Done, Event, JobFailed, OptimizeJob, Progress, Report
from localinfra.scratch import memory_file

events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
COMMAND = module_command("localinfra.optimize.worker")
CAN_PAUSE = hasattr(signal, "SIGSTOP")  # not on Windows
# What ended the worker from outside: the kernel when memory runs out, or a person.
FROM_OUTSIDE = {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"}


class OptimizeFailed(Exception):
    """There is no report; the message says why. `is_final`: it would fail again next time."""

    def __init__(self, message: str, is_final: bool = False):
        super().__init__(message)
        self.is_final = is_final


class Control:
    """Pauses a running job and ends it, from any thread at any time, also before it has started.

    A paused process has all its threads stopped by the kernel, wherever they are: if `CAN_PAUSE`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ended = False
        self.is_paused = False
        self.num_pauses = 0

    def attach(self, process: "subprocess.Popen[bytes]") -> None:
        """Takes over a process that has just been started."""
        with self._lock:
            self._process = process
            if self._is_ended:
                process.kill()
            elif self.is_paused:
                process.send_signal(signal.SIGSTOP)

    def pause(self) -> None:
        with self._lock:
            if not self.is_paused:
                self.is_paused = True
                self.num_pauses += 1
                self._send(signal.SIGSTOP)

    def resume(self) -> None:
        with self._lock:
            if self.is_paused:
                self.is_paused = False
                self._send(signal.SIGCONT)

    def end(self) -> None:
        """Kills the process. `run` then raises OptimizeFailed."""
        with self._lock:
            self._is_ended = True
            if self._process is not None:
                self._process.kill()

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # does nothing once it has ended


def run(
    job: OptimizeJob, show: Callable[[Progress], None], control: Control | None = None
) -> Report:
    """Runs the job in its own process, which ends with this call, even at Ctrl-C or an error in
    `show`. Raises OptimizeFailed if there is no report."""
    with memory_file() as log:
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # Out of Ctrl-C's reach, and in this session: if its parent is killed while it is
            # stopped, it gets a SIGHUP and continues, as a group that nobody can continue.
            process_group=0 if job.is_background else None,
            creationflags=OWN_GROUP if job.is_background else 0,
        )
        if control:
            control.attach(process)
        try:
            with process:  # closes its pipes and waits for it
                last = converse(process, job, show)
        finally:
            store.sweep_if_free()
        match last:
            case Done():
                return last.report
            case JobFailed():
                raise OptimizeFailed(last.message)
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
        number = signal.Signals(-status)
        is_final = number.name not in FROM_OUTSIDE
        return OptimizeFailed(f"the measurement ended with {number.name}{words}", is_final)
    return OptimizeFailed(f"the measurement ended with status {status}{words}")
