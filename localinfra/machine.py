"""This machine: its cores and memory, what a measurement of speed holds for, where results go.

Reads a few small files and imports no library, since every start of the server asks.
"""

import hashlib
import importlib.util
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from localinfra.backend_detect import output_of


def usable_cores() -> int:
    """Physical cores this process may run on: a second thread on a core only adds waiting."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    siblings = {
        path.read_text().strip()
        for cpu in allowed
        if (
            path := Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        ).exists()
    }
    return len(siblings) or len(allowed) or os.cpu_count() or 1


def cache_folder(name: str) -> Path:
    """A folder in $LOCALINFRA_CACHE, else in the platform's cache for this user. It need not
    exist."""
    if named := os.environ.get("LOCALINFRA_CACHE"):
        return Path(named).absolute() / name
    named = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(named):  # the XDG standard says that a relative path is to be ignored
        named = os.path.join(os.sep, os.path.expanduser("~"), ".cache")  # / where nobody has a home
    return Path(named, "localinfra", name)


def cpu() -> str:
    """The processor's name, and a digest of everything it says it can do."""
    if platform.system() == "Darwin":
        told = output_of(["sysctl", "-n", "machdep.cpu.brand_string"])
    else:
        told = _read(Path("/proc/cpuinfo"))
    # ARM writes "Features", and numbers in place of a name.
    lines = re.findall(
        r"^(?:model name|flags|Features|CPU implementer|CPU part)\s*:.*$", told, re.M
    )
    facts = [platform.machine(), *sorted(set(lines or [told.strip() or platform.processor()]))]
    name = re.search(r"^model name\s*:\s*(.+)$", told, re.M)
    shown = name[1] if name else told.strip() if not lines else platform.machine()
    return f"{shown or platform.machine()} {_digest(*facts)}"


def llama_build() -> str:
    """llama-cpp-python's version, and a digest of its libraries' names and sizes: builds for
    other instructions differ there, and none has to be loaded to see it."""
    try:
        number = version("llama-cpp-python")
    except PackageNotFoundError:
        number = "unknown"
    spec = importlib.util.find_spec("llama_cpp")
    folders = map(Path, (spec and spec.submodule_search_locations) or ())
    files = sorted(file for folder in folders for file in (folder / "lib").glob("*"))
    return f"{number} {_digest(*(f'{file.name} {file.stat().st_size}' for file in files))}"


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where nobody says."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.M)
    return int(found[1]) * 1024 if found else None


def _digest(*facts: str) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
