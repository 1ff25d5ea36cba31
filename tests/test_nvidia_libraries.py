"""Libraries that a build of llama.cpp lacks are found in NVIDIA's packages: tried with the system's
real loader and small libraries of the same names."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from localinfra.llama_builds import nvidia_packages
from localinfra.nvidia_libraries import missing_library, with_libraries

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or COMPILER is None, reason="needs Linux and a C compiler"
)
# A child loads the build, and says what it computes or why it can't.
PROGRAM = """
import ctypes, sys
from localinfra.nvidia_libraries import with_libraries
try:
    print(with_libraries(lambda: ctypes.CDLL(sys.argv[1])).answer())
except OSError as error:
    print(error)
"""


def compiled(path: Path, body: str, *needs: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".c").write_text(body)
    links = [word for need in needs for word in (f"-L{need.parent}", f"-l:{need.name}")]
    command = [str(COMPILER), "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", str(path)]
    subprocess.run([*command, str(path.with_suffix(".c")), *links, "-Wl,-z,defs"], check=True)
    return path


@pytest.fixture
def cuda_build(tmp_path: Path) -> Path:
    """A library laid out like a CUDA build's, which needs two that the system's loader can't find;
    one of them needs a third."""
    packages = tmp_path / "site" / "nvidia"
    lt = compiled(packages / "cublas/lib/libcublasLt.so.12", "int lt(void) { return 40; }")
    blas = compiled(
        packages / "cublas/lib/libcublas.so.12",
        "int lt(void); int blas(void) { return lt() + 1; }",
        lt,
    )
    rt = compiled(packages / "cuda_runtime/lib/libcudart.so.12", "int rt(void) { return 1; }")
    body = "int blas(void); int rt(void); int answer(void) { return blas() + rt(); }"
    return compiled(tmp_path / "llama_cpp/lib/libggml-cuda.so", body, blas, rt)


def answer(build: Path, *site: Path) -> str:
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(build)],
        env={"PYTHONPATH": ":".join(map(str, (root, *site)))},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@needs_compiler
def test_a_build_finds_what_it_lacks_in_the_packages(cuda_build: Path, tmp_path: Path) -> None:
    assert answer(cuda_build, tmp_path / "site") == "42"


@needs_compiler
def test_without_the_packages_the_loaders_own_error_remains_and_names_them(
    cuda_build: Path, tmp_path: Path
) -> None:
    error = answer(cuda_build)
    assert "cannot open shared object file" in error
    assert nvidia_packages(error) == ("nvidia-cuda-runtime-cu12", "nvidia-cublas-cu12")
    (tmp_path / "site/nvidia/cublas/lib/libcublasLt.so.12").unlink()
    assert "libcublasLt.so.12: cannot open" in answer(cuda_build, tmp_path / "site")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("/x/libggml.so: libcudart.so.12: cannot open shared object file: No", "libcudart.so.12"),
        ("Error loading shared library libcublas.so.13: No such file", "libcublas.so.13"),
        ("Failed to load shared library '/x/libggml.so': undefined symbol: f", ""),
    ],
)
def test_the_missing_library_is_read_from_the_loaders_error(error: str, name: str) -> None:
    assert missing_library(error) == name


def test_packages_have_the_names_of_their_cuda() -> None:
    assert nvidia_packages("libcublas.so.11: cannot open") == (
        "nvidia-cuda-runtime-cu11",
        "nvidia-cublas-cu11",
    )
    assert nvidia_packages("libcudart.so.13: cannot open") == (
        "nvidia-cuda-runtime",
        "nvidia-cublas",
    )
    assert nvidia_packages("libgomp.so.1: cannot open") == ()


def test_another_error_is_raised_at_once(tmp_path: Path) -> None:
    tries: list[str] = []

    def load() -> None:
        tries.append("once")
        raise RuntimeError("libgomp.so.1: cannot open shared object file")

    with pytest.raises(RuntimeError, match="libgomp"):
        with_libraries(load, [tmp_path])
    assert tries == ["once"]
