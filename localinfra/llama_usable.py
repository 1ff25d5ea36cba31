"""Whether the installed llama.cpp runs here. Found out without loading it into this process, which
a build for another CPU would end by an illegal instruction.

It is loaded in a child, once for each build and CPU: `llama/` of the cache remembers those that
ran.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from localinfra import install, machine
from localinfra.backend_detect import read
from localinfra.errors import ModelUnavailable
from localinfra.llama_builds import ILLEGAL_INSTRUCTION

PROGRAM = """
from importlib import import_module
from localinfra.nvidia_libraries import with_libraries
l = with_libraries(lambda: import_module("llama_cpp"))
l.llama_backend_init()
print(l.llama_print_system_info())
"""
LIMIT_S = 60.0
CPUINFO = Path("/proc/cpuinfo")


def check() -> None:
    """Raises ModelUnavailable with the command that mends it."""
    if fault := problem():
        raise ModelUnavailable(
            f"llama.cpp can't be used: {fault}. This replaces it: {install.repair()}", "model"
        )


def problem() -> str:
    """What is wrong with it, without an end; "" if nothing is."""
    if not install.is_installed("llama_cpp"):
        return "llama-cpp-python is not installed"
    digests = (text.split()[-1] for text in (machine.llama_build(), machine.cpu()))
    runs = machine.cache_folder("llama") / f"runs-{'-'.join(digests)}"
    if runs.exists():
        return ""
    fault = tried()
    if not fault:
        with contextlib.suppress(OSError):  # then it is tried each time
            runs.parent.mkdir(parents=True, exist_ok=True)
            runs.touch()
    return fault


def tried(folder: Path | None = None) -> str:
    """What is wrong with the build, the installed one or the one in the folder."""
    command = [sys.executable, "-P", "-c", PROGRAM]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env=environment_with(folder),
        )
    except subprocess.TimeoutExpired:
        return f"it did not load within {LIMIT_S:g} s"
    if done.returncode in ILLEGAL_INSTRUCTION:
        return "it was compiled for another CPU, and dies of an illegal instruction"
    if done.returncode < 0:
        return f"it crashes when it is loaded ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return f"it can't be loaded ({lines[-1][:300]})"
    _, flags = machine.parse_cpuinfo(read(CPUINFO))
    lacking = set(compiled_features(done.stdout)) & set(machine.CPU_FEATURES.values())
    lacking -= set(machine.features_of(flags))
    if flags and lacking:
        return f"it was compiled for another CPU, with {', '.join(sorted(lacking))}"
    return ""


def environment_with(folder: Path | None) -> dict[str, str]:
    """A child's environment, in which packages of the folder come before installed ones."""
    paths = (str(folder) if folder else "", os.environ.get("PYTHONPATH", ""))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def compiled_features(system_info: str) -> tuple[str, ...]:
    """`CPU : SSE3 = 1 | AVX2 = 1 | ` → the names whose value is 1, of the CPU backend only."""
    pairs = [pair.split("=") for pair in system_info.partition("CPU :")[2].split("|")]
    return tuple(p[0].strip() for p in pairs if len(p) == 2 and p[1].strip() == "1")
