"""The parent of a supervised server: it holds the listening sockets, and starts the server again.

Reads nothing from clients: while there is no server, they wait in the sockets' backlog. It only
tells those whose requests a dead server has left behind (`wills.py`). Imports nothing heavy, as it
stays for as long as the server does. `become` and `handed_over` are called in the server's own
process, before it and in it.
"""

import contextlib
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple, NoReturn

from localinfra import logs, outlet
from localinfra.children import module_command
from localinfra.deaths import Death, Deaths, history
from localinfra.journal import SIZE, CrashJournal, Trouble, culprits
from localinfra.scratch import memory_file
from localinfra.wills import Heir, Wills

logger = logging.getLogger("localinfra.supervisor")  # __main__, where it runs

HANDED = "LOCALINFRA_HANDED_OVER"  # the descriptors, for the server
RESTART = 75  # status of a server that wants to be started again (EX_TEMPFAIL of sysexits.h)
FAILED = 1  # status after an error of Python
WRONG_SETTINGS = 2  # status for settings and options that can't be used
AT_ONCE = 130  # status after a second signal
BACKLOG = 2048  # clients that may wait

MAX_FAILED_STARTS = 5  # in a row
PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before each start after a failed one
MAX_DEATHS_A_MINUTE = 30  # of servers that had started; more wait
LONG_PAUSE_S = 10.0
GATHERING_MS = 20  # between two looks at new connections, which lie in the channel meanwhile
MOST_REPORT_BYTES = 1 << 20

ENDING = (signal.SIGINT, signal.SIGTERM)
# Windows, which has no supervisor, lacks these.
PASSED_ON = (*ENDING, *(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name)))
FROM_OUTSIDE = {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"}
TROUBLES = {Trouble.HANGS: "made no step", Trouble.DEVICE_LOST: "lost its device"}
CURRENT_STACK = re.compile(r"^Current thread .*(?:\n .*)*", re.M)  # of faulthandler's report


class Orders(NamedTuple):
    """What the first process tells the supervisor it becomes, as JSON."""

    command: list[str]  # that starts a server
    descriptors: list[int]  # of the listening sockets
    deaths: str  # a folder
    log_level: str
    log_format: logs.LogFormat


# --- in the process that was started with --supervised ------------------------------------------


def become(listeners: Sequence[socket.socket], deaths: Path, level: str, form: str) -> NoReturn:
    """Makes this process a supervisor of itself: of a server started with the same command."""
    for listener in listeners:
        listener.set_inheritable(True)
    command = [sys.executable, *sys.orig_argv[1:]]
    orders = (command, [one.fileno() for one in listeners], str(deaths), level, form)
    sys.stdout.flush()
    outlet.settle()
    # Another program: this one has the server's libraries in memory.
    arguments = [*module_command("localinfra.supervisor"), json.dumps(orders)]
    os.execv(sys.executable, [*arguments, *command])  # the rest is for those who list processes


class HandedOver(NamedTuple):
    """What a supervised server gets from its parent."""

    sockets: list[socket.socket]
    journal: CrashJournal
    report: IO[bytes]  # for faulthandler
    wills: Wills


def handed_over() -> HandedOver | None:
    """None if this process is no supervised server."""
    given = os.environ.pop(HANDED, None)
    if given is None:
        return None
    journal, report, channel, memory, *listeners = map(int, given.split(","))
    for descriptor in (journal, report, channel, memory, *listeners):
        os.set_inheritable(descriptor, False)
    sockets = [socket.socket(fileno=descriptor) for descriptor in listeners]
    wills = Wills(socket.socket(fileno=channel), memory)
    return HandedOver(sockets, CrashJournal.on(journal), os.fdopen(report, "wb", 0), wills)


# --- the supervisor -----------------------------------------------------------------------------


class Supervisor:
    """Runs servers one after another until one ends well or none can start."""

    def __init__(self, orders: Orders, shared: IO[bytes], report: IO[bytes], wills: IO[bytes]):
        """Empty files, for the journal, faulthandler's report and the connections' wills."""
        self._orders = orders
        self._listeners = list(orders.descriptors)
        self._deaths = Deaths(Path(orders.deaths))
        shared.truncate(SIZE)
        self._shared, self._report = shared, report
        self._journal = CrashJournal.on(shared.fileno())
        self._heir = Heir(wills)
        self._process: subprocess.Popen[bytes] | None = None
        self._has_served = False  # whether any server has begun to listen
        self._num_signals = 0  # that end it
        self._num_failed_starts = 0
        self._died_at: deque[float] = deque(maxlen=MAX_DEATHS_A_MINUTE)

    def run(self) -> int:
        """Returns the exit status."""
        for number in PASSED_ON:
            if number in ENDING or signal.getsignal(number) is not signal.SIG_IGN:  # of nohup
                signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the wait for the server's end
        self._wakes, woken = os.pipe()  # for signals that come during a wait
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        while True:
            num_kills = out_of_memory_kills()
            status = self._one_server()
            self._has_served = self._has_served or self._journal.is_ready
            reap_orphans()
            if self._num_signals > 1:
                return AT_ONCE
            if status == 0 or self._num_signals:
                return min(abs(status), 1)
            is_oom = out_of_memory_kills() > num_kills
            pause_s = self._after_death(status, is_oom)
            if pause_s is None:
                return status if status > 0 else 1
            if self._paused(pause_s):
                return 0

    def _one_server(self) -> int:
        """Starts a server and waits for its end; returns its status, negative for a signal."""
        self._journal.clear()
        os.ftruncate(self._report.fileno(), 0)
        os.lseek(self._report.fileno(), 0, os.SEEK_SET)  # servers write where the last one ended
        # Signals reach it once it has handlers for them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        try:
            if self._num_signals:
                return 0
            process = self._process = self._start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with process:
            status = self._ended(process)
        is_next = status != 0 and not self._num_signals
        if num_told := self._heir.settle(is_told=is_next):
            logger.error("requests it left behind, whose clients were told: %d", num_told)
        return status

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._heir.testator() as wills:
            shared = (self._shared.fileno(), self._report.fileno(), *wills, *self._listeners)
            return subprocess.Popen(
                self._orders.command,
                stdin=subprocess.PIPE,  # it ends at its EOF
                env=os.environ | {HANDED: ",".join(map(str, shared))},
                pass_fds=shared,
                process_group=0,  # signals of a terminal come here alone
            )

    def _ended(self, process: "subprocess.Popen[bytes]") -> int:
        """Keeps the server's connections until its end; returns its status."""
        both, signals = select.poll(), select.poll()
        both.register(self._wakes, select.POLLIN)
        both.register(self._heir.fileno(), select.POLLIN)
        signals.register(self._wakes, select.POLLIN)
        waits, pause_ms = both, None
        while (status := process.poll()) is None:
            ready = [descriptor for descriptor, _ in waits.poll(pause_ms)]
            if self._wakes in ready:
                os.read(self._wakes, 4096)
            if waits is both and ready != [self._wakes]:
                is_open = self._heir.receive()
                waits, pause_ms = signals, GATHERING_MS if is_open else None
            elif pause_ms:
                waits, pause_ms = both, None
        return status

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in ENDING:
            self._num_signals += 1
            for descriptor in self._listeners:  # new clients are refused, not kept waiting
                os.close(descriptor)
            self._listeners = []
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if self._num_signals > 1 else number)

    def _after_death(self, status: int, is_oom: bool) -> float | None:
        """Notes who is to blame. Returns how long to wait before the next start; None: the server
        can't be started."""
        is_from_outside = signal_name(status) in FROM_OUTSIDE and not is_oom
        # It ended itself, perhaps beside models that were loading, which may be sound.
        could_not_start = status in (FAILED, WRONG_SETTINGS) and not self._journal.is_ready
        is_noted = False
        if not is_from_outside and not could_not_start:
            is_noted = self._note_deaths(status, is_oom)
        # Models with `preload` may kill it before it listens: each is left out in the end.
        if self._journal.is_ready or is_from_outside or is_noted:
            self._num_failed_starts = 0
            return self._pause_after(how_it_ended(status, is_oom))
        # Later, someone may be just writing them.
        if status == WRONG_SETTINGS and not self._has_served:
            logger.error("the server can't start with these settings: the lines above say why")
            return None
        self._num_failed_starts += 1
        ended = how_it_ended(status, is_oom)
        if self._num_failed_starts == MAX_FAILED_STARTS:
            logger.error("the server %s before it listened, %d times", ended, MAX_FAILED_STARTS)
            return None
        pause_s = PAUSES_S[self._num_failed_starts]
        logger.error("the server %s before it listened; next try in %g s", ended, pause_s)
        return pause_s

    def _pause_after(self, ended: str) -> float:
        now = time.monotonic()
        is_often = len(self._died_at) == MAX_DEATHS_A_MINUTE and now - self._died_at[0] < 60
        self._died_at.append(now)
        pause_s = LONG_PAUSE_S if is_often else 0.0
        when = f"in {pause_s:g} s, as that happens often" if is_often else "now"
        logger.error("the server %s; it is started again %s", ended, when)
        return pause_s

    def _note_deaths(self, status: int, is_oom: bool) -> bool:
        """Whether a model is to blame, and the next servers will know."""
        is_noted = False
        report = os.pread(self._report.fileno(), MOST_REPORT_BYTES, 0).decode(errors="replace")
        if stack := CURRENT_STACK.search(report):
            logger.error("the thread that died: %s", stack[0])
        for entry in culprits(self._journal.at_work(), report):
            cause = TROUBLES.get(entry.trouble) or how_it_ended(status, is_oom)
            death = Death(time.time(), entry.step.words, cause)
            deaths = self._deaths.add(entry.identity, entry.name, death)
            is_noted = is_noted or bool(self._deaths.of(entry.identity))
            logger.error("%s: the server %s %s", entry.name, cause, entry.step.words)
            if words := history(deaths).words:
                logger.error("%s: %s", entry.name, words)
        return is_noted

    def _paused(self, pause_s: float) -> bool:
        """Waits; returns whether a signal has ended the wait for good."""
        ends_at = time.monotonic() + pause_s
        self._process = None
        while not self._num_signals and (left_s := ends_at - time.monotonic()) > 0:
            if select.select([self._wakes], [], [], left_s)[0]:
                os.read(self._wakes, 4096)
        return self._num_signals > 0


def reap_orphans() -> None:
    """Takes note of the end of a dead server's children, which are this process's in a container:
    as its first process. There must be no server."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def signal_name(status: int) -> str | None:
    """Of the signal that ended a process with this status."""
    if status >= 0:
        return None
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def how_it_ended(status: int, is_oom: bool) -> str:
    name = signal_name(status)
    if is_oom and name == "SIGKILL":
        return "was killed for lack of memory"
    if name:
        return f"died of {name}"
    return "asked for a restart" if status == RESTART else f"ended with status {status}"


def out_of_memory_kills() -> int:
    """How many processes Linux has killed for lack of memory so far; 0 where it is not known."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", counters, re.M)
    return int(found[1]) if found else 0


def main() -> NoReturn:
    outlet.install()
    orders = Orders(*json.loads(sys.argv[1]))
    logs.configure(orders.log_level, orders.log_format)
    with memory_file() as shared, memory_file() as report, memory_file() as wills:
        sys.exit(Supervisor(orders, shared, report, wills).run())


if __name__ == "__main__":
    main()
