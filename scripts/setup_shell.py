"""How setup.py runs commands: child processes that write to a log, their progress on the terminal,
advice from their logs, and the lock that only one setup holds.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from setup_choices import SetupError

try:
    import fcntl
except ImportError:  # Windows: no lock, so run one setup at a time there
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
IS_WINDOWS = os.name == "nt"
PYTHON = VENV / ("Scripts/python.exe" if IS_WINDOWS else "bin/python")

REMEDIES = (  # (pattern in the log, what to do); the first match counts
    (r"No space left on device", "The disk is full: free some space and run again."),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "A proxy seems to replace certificates: give its certificate to pip with "
        "`pip config set global.cert FILE`.",
    ),
    (
        r"CUDA::cublas|cublas_v2.h",
        "The CUDA toolkit lacks cuBLAS: install its package, libcublas-dev-MAJOR-MINOR.",
    ),
    (
        r"CUDA_ARCHITECTURES is set to .native., but no GPU",
        "No NVIDIA GPU was found. To compile for one elsewhere, name its architecture: "
        "CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=89",
    ),
    (
        r"CMAKE_C(XX)?_COMPILER|No C(XX)? compiler|unable to find .*compiler",
        "The C++ compiler is missing or doesn't work. On Windows, install Visual Studio's Build "
        "Tools with C++.",
    ),
    (
        r"signal terminated program cc1plus|ninja: .*Killed|cc1plus: out of memory",
        "The machine ran out of memory: compile one file at a time with "
        "CMAKE_BUILD_PARALLEL_LEVEL=1 scripts/serve",
    ),
    (
        r"Connection(Error| broken| refused)|NewConnectionError|NameResolution|Read timed out|"
        r"Could not find a version|Max retries",
        "pip could not fetch a package: check the network, proxy and mirror (`pip config list`).",
    ),
)


def remedy(log: str) -> str:
    return next((advice for pattern, advice in REMEDIES if re.search(pattern, log)), "")


def telling_lines(log: str, limit: int = 12) -> list[str]:
    """The lines about errors, each with the one after it, or else the last lines. The end alone
    says little: pip adds much about itself, and ninja lets other compilers finish."""
    pips_own = re.compile(r"ERROR: |error: subprocess|note: |Building wheel|full command")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    lines = [line for line in lines if not pips_own.match(line)]
    hits = [i for i, line in enumerate(lines) if re.search(r"\b[Ee]rror\b|FAILED", line)]
    shown = sorted({i for hit in hits for i in (hit, hit + 1) if i < len(lines)})
    return [lines[i] for i in shown][:limit] or lines[-limit:]


def build_progress(log: str) -> str:
    """Shortens ninja's last `[12/193] g++ ... -c dir/ggml.c` to `12/193 ggml.c`."""
    steps = re.findall(r"^\s*\[(\d+)/(\d+)\] (.*)$", log, flags=re.MULTILINE)
    if not steps:
        return ""
    done, total, command = steps[-1]
    return f"{done}/{total} {Path(command.split()[-1]).name if command else ''}".strip()


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Status:
    """The current command: one line redrawn on a terminal, elsewhere a line every 15 s."""

    def __init__(self, title: str):
        self.title = title
        self.started = self.shown_at = time.monotonic()
        self.is_live = sys.stderr.isatty()
        if not self.is_live:
            say(title)

    def show(self, detail: str = "") -> None:
        now = time.monotonic()
        elapsed = duration(now - self.started)
        if self.is_live:
            text = "  ".join(filter(None, (self.title, detail, elapsed)))
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}", end="", file=sys.stderr, flush=True)
        elif now - self.shown_at >= 15:
            self.shown_at = now
            say("  ".join(filter(None, ("  ..", detail, elapsed))))

    def end(self, outcome: str) -> None:
        text = f"{outcome}, {duration(time.monotonic() - self.started)}"
        say(f"\r\033[K{self.title}  {text}" if self.is_live else f"  {text}")


class Shell:
    """Runs child processes with their output in the log. Each inherits the lock's file descriptor,
    so that if this process is killed, the next setup waits for its child to end.
    """

    def __init__(self, log_path: Path, lock: IO[str]):
        self.log_path, self.lock = log_path, lock
        self.start = 0  # byte offset of the last child's output in the log

    def run(self, title: str, command: Sequence[str], environment: dict[str, str]) -> int:
        """Returns the exit status. Ends the child's process group if interrupted."""
        with self.log_path.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            self.start = log.tell()
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if IS_WINDOWS else (self.lock.fileno(),),
                process_group=0,
            )
        status = Status(title)
        try:
            while (code := poll(process)) is None:
                status.show(build_progress(self.tail()))
            status.end("done" if code == 0 else "failed")
            return code
        except BaseException:
            status.end("stopped")
            end_group(process)
            raise

    def tail(self, size_bytes: int = 20_000) -> str:
        """The end of the last child's output."""
        with self.log_path.open("rb") as log:
            log.seek(max(self.start, log.seek(0, os.SEEK_END) - size_bytes))
            return log.read().decode(errors="replace")

    def pip(
        self, title: str, arguments: Sequence[str], environment: dict[str, str] | None = None
    ) -> bool:
        command = [str(PYTHON), "-m", "pip", "--no-input", "--disable-pip-version-check"]
        return self.run(title, [*command, "install", "-v", *arguments], environment or {}) == 0

    def must(self, is_done: bool, what: str) -> None:
        if not is_done:
            log = self.tail(200_000)
            lines = "\n".join(f"    {line[:160]}" for line in telling_lines(log))
            advice = remedy(log) or "See the log."
            raise SetupError(f"{what} failed. {advice}\n  In {self.log_path}:\n{lines}")


def poll(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=0.2)
    return None


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends compilers too: they are in the child's group and would go on compiling."""
    if IS_WINDOWS:  # it has no groups
        subprocess.run(["taskkill", "/t", "/f", "/pid", str(process.pid)], capture_output=True)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave them behind
    for sign, patience_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
    # SIGKILL also reaches compilers that have outlived their parent.


@contextlib.contextmanager
def only_setup(path: Path) -> Iterator[IO[str]]:
    """Waits until no other setup, or a child left behind by one, works on .venv."""
    with path.open("a+") as lock:
        if not locked(lock):
            owner = path.read_text() or "unknown"
            status = Status(f"Waiting for another setup (process {owner})")
            while not locked(lock):
                status.show()
                time.sleep(0.2)
            status.end("over")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock


def locked(file: IO[str]) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
