"""Compiles llama.cpp for this machine's GPU, or its CPU, from what `packing.py` has made, and puts
it where Python finds it: a folder that goes before the machine's own packages."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from gpucheck.packing import SOURCES, llama_cpp_requirement
from gpucheck.rows import Sheet
from localinfra.nvidia_libraries import package_folders

# Parts of llama.cpp that nothing here uses.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_BUILD_APP=OFF", "-DMTMD_VIDEO=off",
)  # fmt: skip
CUDA_OPTIONS = ("-DGGML_CUDA=on", "-DCMAKE_CUDA_ARCHITECTURES=native", "-DGGML_CUDA_NCCL=off")
LIBRARIES = ("llama", "mtmd")
SERVER = "llama-server"
# In place of the archive's list of llama.cpp's tools, most of which it lacks.
TOOLS = "find_package(Threads REQUIRED)\nllama_add_compile_flags()\n" + "".join(
    f"add_subdirectory({name})\n" for name in ("mtmd", "ui", "server")
)
EVERY_S = 10.0
PATIENCE_S = 5.0  # less than the part itself has


class NotBuilt(Exception):
    """Most other parts can't run then. The message says why."""


def python_site(packed: Path, work: Path) -> Path:
    """Installs the wheels and llama-cpp-python's modules into a folder, and returns it. Raises
    NotBuilt."""
    site, part = work / "site", work / "site.part"
    if site.exists():
        return site
    shutil.rmtree(part, ignore_errors=True)  # of a run that was ended
    wheels = sorted(map(str, (packed / "wheels").glob("*.whl")))
    if not wheels or not (packed / SOURCES).exists():
        raise NotBuilt(f"{packed} is not what --pack makes")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-compile", "--target", str(part), *wheels]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotBuilt(f"pip: {done.stderr.strip()[-400:]}")
    with tarfile.open(packed / SOURCES) as archive:
        archive.extractall(work, filter="data")
    shutil.copytree(work / "llama_cpp", part / "llama_cpp")
    version = llama_cpp_requirement().partition("==")[2]
    info = part / f"llama_cpp_python-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata)
    return part.rename(site)


def build(work: Path, site: Path, sheet: Sheet, *, for_cuda: bool) -> None:
    """Compiles the libraries; where that has been done in the same folder before, what is missing.
    Raises NotBuilt."""
    sources, folder = work / "llama.cpp", work / "build"
    (sources / "tools" / "CMakeLists.txt").write_text(TOOLS)
    for part in ("include", "ggml/include"):
        shutil.copytree(sources / part, work / "include", dirs_exist_ok=True)
    configure = ["cmake", "-S", str(sources), "-B", str(folder), *OPTIONS]
    configure += CUDA_OPTIONS if for_cuda else ()
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    environment = cuda_environment()
    problem = run(configure, environment, work / "configure.log")
    for lacking, options in remedies().items() if for_cuda else ():
        if problem and lacking in (work / "configure.log").read_text(errors="replace"):
            configure += options
            problem = run(configure, environment, work / "configure.log")
    if problem:
        raise NotBuilt(f"CMake: {problem}")
    for target in LIBRARIES:
        problem = compiled(target, work, sheet)
        if problem and target == "llama":
            raise NotBuilt(problem)
    lib = site / "llama_cpp" / "lib"
    if not lib.exists():
        # One file for each library, or the loader would have two copies of some.
        lib.symlink_to(folder / "bin")


def compiled(target: str, work: Path, sheet: Sheet) -> str:
    """Adds a row, and returns what is wrong, or ""."""
    begun, cores = time.monotonic(), len(os.sched_getaffinity(0))
    command = ["cmake", "--build", str(work / "build"), "--target", target, "-j", str(cores)]
    problem = run(command, cuda_environment(), work / f"build-{target}.log")
    spent = f"{time.monotonic() - begun:.0f} s on {cores} cores"
    sheet.add(f"{target} compiled", f"FAILED: {problem}" if problem else spent)
    return problem


def compiled_server(work: Path, sheet: Sheet) -> Path | None:
    """llama.cpp's own, beside the libraries."""
    made = work / "build" / "bin" / SERVER
    return made if not compiled(SERVER, work, sheet) and made.exists() else None


def remedies() -> dict[str, list[str]]:
    """What CMake may not find → options that do without, in CMake's order."""
    return {
        # The toolkit came without cuBLAS, as with PyTorch, whose packages have it.
        "CUDA::cublas": cublas_options(package_folders()),
        "CUDA::cuda_driver": ["-DGGML_CUDA_NO_VMM=on"],  # there is no libcuda.so to link with
    }


def cublas_options(folders: Sequence[Path]) -> list[str]:
    """For CMake to find cuBLAS in these folders of NVIDIA's packages, and the headers beside."""
    options, headers = [], []
    for name in ("cublas", "cublasLt"):
        found = (file for folder in folders for file in sorted(folder.glob(f"lib{name}.so*")))
        if library := next(found, None):
            options.append(f"-DCUDA_{name}_LIBRARY={library}")
            headers.append(f"-I{library.parent.parent / 'include'}")
    flags = " ".join(dict.fromkeys(headers))
    languages = ("CXX", "CUDA") if flags else ()
    return [*options, *(f"-DCMAKE_{language}_FLAGS={flags}" for language in languages)]


def cuda_environment() -> dict[str, str]:
    """With nvcc in its usual place, which is in no PATH."""
    path = os.environ.get("PATH", "")
    return os.environ | {"PATH": f"{path}{os.pathsep}/usr/local/cuda/bin"}


def run(command: list[str], environment: dict[str, str], log: Path) -> str:
    """Shows the last line of progress now and then. Returns what is wrong, or "". If this part is
    told to end, so are the compilers: they would slow down what the others measure."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        while True:
            try:
                status = process.wait(EVERY_S)
                break
            except subprocess.TimeoutExpired:
                print(f"  .. {progress(log.read_text(errors='replace'))}", flush=True)
    finally:
        if process.returncode is None:
            end(process)
    return "" if status == 0 else first_error(log.read_text(errors="replace"))


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ninja's compilers have process groups of their own, which it ends if it is asked to."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
            return


def progress(text: str) -> str:
    """`[ 42%] Building CUDA ... mmq.cu.o` or ninja's `[42/230] ...`, shortened; of CMake, its last
    line."""
    steps = re.findall(r"^\[\s*(\d+(?:%|/\d+))\] (.*)$", text, re.M)
    if steps:
        return f"{steps[-1][0]} {steps[-1][1].split()[-1].rpartition('/')[2]}"
    return (text.strip().splitlines() or [""])[-1][:80]


def first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if re.search(r"[Ee]rror", line)]
    return " / ".join(lines[:3])[:500] or text.strip()[-300:]
