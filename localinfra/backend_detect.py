"""Which llama.cpp build suits this machine. Imports only the standard library.

`scripts/setup.py` uses this before anything is installed, `cli/doctor.py` afterwards. Only
`look()` touches the machine; the choices work on the plain values it returns.
"""

import ctypes.util
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BACKENDS = ("cpu", "cuda", "metal", "vulkan", "rocm")

# CUDA versions that llama-cpp-python publishes wheels for, in indexes named cu118 and so on
CUDA_WHEELS = ((11, 8), (12, 1), (12, 2), (12, 3), (12, 4), (12, 5), (13, 0), (13, 2))
ROCM_WHEELS = "rocm72"
ROCM_VERSION = Path("/opt/rocm/.info/version")

PCI_GPU_VENDORS = {"0x1002": "AMD", "0x10de": "NVIDIA", "0x8086": "Intel"}


@dataclass(frozen=True)
class Machine:
    system: str  # platform.system(): Linux, Darwin
    machine: str  # platform.machine(): x86_64, aarch64, arm64
    nvidia_gpu: str = ""  # name, "" when nvidia-smi finds none
    cuda_version: tuple[int, int] | None = None  # the newest CUDA that the driver can run
    vulkan_gpu: str = ""  # name or vendor, "" without a GPU and libvulkan
    rocm_version: str = ""  # of AMD's libraries, "" without them
    has_bf16: bool = False  # the CPU multiplies bfloat16 matrices: AVX512-BF16 or AMX


def best_backend(machine: Machine) -> str:
    if machine.system == "Darwin":
        return "metal" if machine.machine == "arm64" else "cpu"
    if machine.nvidia_gpu:
        return "cuda"
    # ROCm's builds need AMD's libraries of their own release; Vulkan's need the driver only.
    return "vulkan" if machine.vulkan_gpu else "cpu"


def gains_openvino(machine: Machine) -> bool:
    """Whether embeddings are faster with OpenVINO than with what is installed in any case. On other
    CPUs it is no faster than onnxruntime, and with these GPUs PyTorch computes them there."""
    return machine.has_bf16 and not machine.nvidia_gpu


def wheel_indexes(backend: str, machine: Machine) -> tuple[str, ...]:
    """Names of llama-cpp-python's wheel indexes worth trying, best first."""
    if backend != "cuda":
        return (ROCM_WHEELS if backend == "rocm" else backend,)
    if machine.cuda_version is None:
        return ()
    usable = sorted((v for v in CUDA_WHEELS if v <= machine.cuda_version), reverse=True)
    # A driver also runs older CUDA; the installed runtime libraries may be of either major version.
    newest_of_major = {major: minor for major, minor in reversed(usable)}
    return tuple(f"cu{major}{minor}" for major, minor in sorted(newest_of_major.items())[::-1])[:2]


def parse_nvidia_smi(text: str) -> tuple[int, int] | None:
    """The CUDA version in nvidia-smi's header, "CUDA Version: 12.8" or "CUDA UMD Version: 13.0"."""
    found = re.search(r"CUDA[\w ]* Version\s*:\s*(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def parse_bf16(cpuinfo: str) -> bool:
    """Whether the flags in /proc/cpuinfo name instructions for bfloat16 matrices."""
    return re.search(r"^flags\s*:.*\b(?:avx512_bf16|amx_bf16)\b", cpuinfo, re.MULTILINE) is not None


def parse_vulkaninfo(text: str) -> str:
    """The first real GPU in `vulkaninfo --summary`; llvmpipe runs on the CPU and doesn't count."""
    kind = re.compile(r"deviceType\s*=\s*PHYSICAL_DEVICE_TYPE_(?:DISCRETE|INTEGRATED)_GPU")
    for device in re.split(r"^GPU\d+:", text, flags=re.MULTILINE)[1:]:
        name = re.search(r"deviceName\s*=\s*(.+)", device)
        if kind.search(device) and name:
            return name[1].strip()
    return ""


def look() -> Machine:
    system, machine = platform.system(), platform.machine()
    if system == "Darwin":
        return Machine(system, machine)
    names = output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    # With a driver but no GPU it prints "No devices were found" and exits with 6, so this is "".
    nvidia_gpu = names.splitlines()[0].strip() if names.strip() else ""
    cuda_version = parse_nvidia_smi(output_of(["nvidia-smi"])) if nvidia_gpu else None
    vulkan_gpu = parse_vulkaninfo(output_of(["vulkaninfo", "--summary"])) or (
        render_node_vendor() if ctypes.util.find_library("vulkan") else ""
    )
    rocm_version = read(ROCM_VERSION).strip()
    has_bf16 = parse_bf16(read(Path("/proc/cpuinfo")))
    return Machine(system, machine, nvidia_gpu, cuda_version, vulkan_gpu, rocm_version, has_bf16)


def read(path: Path) -> str:
    """The file's text, or "" if it can't be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def render_node_vendor(drm: Path = Path("/sys/class/drm")) -> str:
    for node in sorted(drm.glob("renderD*/device/vendor")):
        if vendor := PCI_GPU_VENDORS.get(node.read_text().strip()):
            return f"{vendor} GPU"
    return ""


def output_of(command: Sequence[str], timeout_s: float = 10) -> str:
    """The program's standard output, or "" if it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")
