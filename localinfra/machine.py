"""This machine: its cores and memory, what identifies it to a benchmark, its folders.

Reads a few small files and imports no library, since every server start calls it.
"""

import hashlib
import importlib.util
import mmap
import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from localinfra.backend_detect import output_of, read

CGROUP = Path("/sys/fs/cgroup")

# Linux's CPU flag or macOS's hw.optional key → llama.cpp's name for the code that uses it
CPU_FEATURES = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
    "asimd": "NEON",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
    "hw.optional.neon": "NEON",
    "hw.optional.arm.FEAT_DotProd": "DOTPROD",
    "hw.optional.arm.FEAT_I8MM": "MATMUL_INT8",
    "hw.optional.avx2_0": "AVX2",
}


def gives(num_bytes: int) -> bool:
    """Whether this process may have so much more memory now, in one piece: a limit on its address
    space (ulimit -v), or a system that promises no more than it has, may refuse."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
    try:
        mmap.mmap(-1, num_bytes, **private).close()
    except (OSError, ValueError, OverflowError, MemoryError):
        return False
    return True


def usable_cores() -> int:
    """Physical cores that this process may run on: a second thread on a core only adds waiting."""
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
    """A folder in $LOCALINFRA_CACHE, else in the user's cache folder. It may not exist yet."""
    return _user_folder("LOCALINFRA_CACHE", "XDG_CACHE_HOME", (".cache",), name)


def data_folder(name: str) -> Path:
    """The same for what can't be made again: in $LOCALINFRA_DATA, else in the user's data."""
    return _user_folder("LOCALINFRA_DATA", "XDG_DATA_HOME", (".local", "share"), name)


def _user_folder(own: str, shared: str, usual: tuple[str, ...], name: str) -> Path:
    if named := os.environ.get(own):
        return Path(named).absolute() / name
    named = os.environ.get(shared, "")
    if not os.path.isabs(named):  # XDG says to ignore relative paths
        named = os.path.join(os.sep, os.path.expanduser("~"), *usual)  # / without a home
    return Path(named, "localinfra", name)


def cpu() -> str:
    """The CPU's name, and a digest of its feature flags."""
    if platform.system() == "Darwin":
        info = output_of(["sysctl", "-n", "machdep.cpu.brand_string"])
    else:
        info = read(Path("/proc/cpuinfo"))
    # ARM writes "Features", and numbers in place of a name.
    lines = re.findall(
        r"^(?:model name|flags|Features|CPU implementer|CPU part)\s*:.*$", info, re.M
    )
    facts = [platform.machine(), *sorted(set(lines or [info.strip() or platform.processor()]))]
    name = re.search(r"^model name\s*:\s*(.+)$", info, re.M)
    shown = name[1] if name else info.strip() if not lines else platform.machine()
    return f"{shown or platform.machine()} {_digest(*facts)}"


def parse_cpuinfo(text: str) -> tuple[str, list[str]]:
    """The first CPU's model name and flags; ARM writes "Features" and often no name."""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return (name[1] if name else "", flags[1].split() if flags else [])


def features_of(flags: Sequence[str]) -> tuple[str, ...]:
    return tuple(feature for flag, feature in CPU_FEATURES.items() if flag in flags)


def llama_build() -> str:
    """llama-cpp-python's version, and a digest of its libraries' names and sizes, which differ
    between builds for different CPUs and can be read without loading one."""
    try:
        number = version("llama-cpp-python")
    except PackageNotFoundError:
        number = "unknown"
    spec = importlib.util.find_spec("llama_cpp")
    folders = map(Path, (spec and spec.submodule_search_locations) or ())
    files = sorted(file for folder in folders for file in (folder / "lib").glob("*"))
    return f"{number} {_digest(*(f'{file.name} {file.stat().st_size}' for file in files))}"


def available_memory() -> int | None:
    """Bytes available without swapping, within the limits of this process's control groups; None
    if the system doesn't report them."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", read(Path("/proc/meminfo")), re.M)
    own = re.search(r"^0::/(.*)$", read(Path("/proc/self/cgroup")), re.M)
    group = CGROUP / (own[1] if own else "")
    groups = [folder for folder in (group, *group.parents) if folder.is_relative_to(CGROUP)]
    sizes = [int(found[1]) * 1024 if found else None, *map(_left_in_group, groups)]
    return min((size for size in sizes if size is not None), default=None)


def _left_in_group(folder: Path) -> int | None:
    """Bytes left of the limit of a control group (v2). Pages of files count as left: the system
    drops them first."""
    limit, used = read(folder / "memory.max").strip(), read(folder / "memory.current").strip()
    if not (limit.isdigit() and used.isdigit()):
        return None
    files = re.findall(r"^(?:in)?active_file (\d+)$", read(folder / "memory.stat"), re.M)
    return max(0, int(limit) - int(used) + sum(map(int, files)))


def own_memory() -> int | None:
    """Bytes of main memory that this process holds, without the pages of mapped files; None if the
    system doesn't report them."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", read(Path("/proc/self/status")), re.M)
    return int(found[1]) * 1024 if found else None


def _digest(*facts: str) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]
