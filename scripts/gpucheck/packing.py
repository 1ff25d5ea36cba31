"""What a machine without a network needs, in one folder: llama.cpp's sources and llama-cpp-python's
modules in one archive, the words of a model, wheels.

Small enough to travel with a working tree: of llama.cpp no tests, examples, pages and tools but the
server; no weights, no PyTorch.
"""

import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from benchlib import ROOT

SOURCES = "llama.cpp.tar.xz"
WORDS = "words.gguf"
LIMIT_MIB = 64
KEPT = (
    "CMakeLists.txt", "LICENSE", "licenses", "cmake", "common", "ggml", "include", "src", "vendor",
    "tools/server", "tools/mtmd", "tools/ui/CMakeLists.txt", "tools/ui/sources.cmake",
    "tools/ui/ui.cpp.in", "tools/ui/ui.h.in", "scripts/ui-assets.cmake",
)  # fmt: skip
LEFT_OUT = ("tests", "bench")
# What localinfra and its tests import, with what those need; the versions are the tested ones.
WHEELS = (
    "annotated-doc", "anyio", "certifi", "click", "diskcache", "filelock", "fsspec", "gguf", "h11",
    "hf-xet", "httpcore2", "httptools", "httpx2", "huggingface_hub", "hypothesis", "idna",
    "iniconfig", "Jinja2", "llguidance", "MarkupSafe", "msgspec", "numpy", "packaging", "pillow",
    "pluggy", "prometheus_client", "psutil", "Pygments", "pytest", "pytest-timeout", "pytest-xdist",
    "execnet", "python-multipart", "PyYAML", "sniffio", "sortedcontainers", "starlette", "tqdm",
    "truststore", "typer", "typing_extensions", "uvicorn", "shellingham", "rich", "markdown-it-py",
    "mdurl",
)  # fmt: skip
# What pictures need beside PyTorch, which is too large to carry: of no use where that is missing.
WITH_TORCH = (
    "accelerate", "charset-normalizer", "diffusers", "importlib_metadata", "regex", "requests",
    "safetensors", "tokenizers", "transformers", "urllib3", "zipp",
)  # fmt: skip
# pip takes those that it is told and no older ones.
PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1))
PLATFORMS += ("manylinux2014_x86_64", "manylinux1_x86_64")


def pack(folder: Path, sdist: Path | None, python: str, has: Sequence[str]) -> None:
    """`sdist`: llama-cpp-python's unpacked source distribution; fetched without. `python`: the
    other machine's, such as 3.12. `has`: packages that it has. Raises SystemExit with what to
    do."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / "wheels").glob("*.whl"):
        old.unlink()  # of another Python, or other versions
    sdist = sdist or fetched_sdist(folder)
    pack_sources(sdist, folder / SOURCES)
    pack_words(folder / WORDS)
    fetch_wheels(folder / "wheels", python, has)
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    for path, size in sorted(sizes.items(), key=lambda item: -item[1])[:10]:
        print(f"  {size / 2**20:5.1f} MiB  {path.relative_to(folder)}")
    total = sum(sizes.values()) / 2**20
    print(f"{total:.1f} MiB in {folder}")
    if total > LIMIT_MIB:
        sys.exit(f"That is more than {LIMIT_MIB} MiB: name what the machine has by --has")


def fetched_sdist(folder: Path) -> Path:
    """Unpacked beside the folder."""
    work = folder.with_name(f"{folder.name}-sdist")
    work.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "-d", str(work), llama_cpp_requirement()], check=True)
    with tarfile.open(next(work.glob("*.tar.gz"))) as archive:
        archive.extractall(work, filter="data")
    return next(path for path in work.iterdir() if path.is_dir())


def llama_cpp_requirement() -> str:
    """NAME==VERSION."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if "llama-cpp-python==" in line)


def pack_sources(sdist: Path, target: Path) -> None:
    """llama.cpp/... and llama_cpp/..., the modules."""
    llama = sdist / "vendor" / "llama.cpp"
    if not (llama / "CMakeLists.txt").exists():
        sys.exit(f"{sdist} has no vendor/llama.cpp: name llama-cpp-python's unpacked sources")

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if set(Path(member.name).parts) & set(LEFT_OUT) else member

    print(f"packing {llama}", flush=True)
    with tarfile.open(target, "w:xz", preset=6) as archive:
        for name in KEPT:
            if (llama / name).exists():
                archive.add(llama / name, f"llama.cpp/{name}", filter=kept)
        for module in sorted((sdist / "llama_cpp").glob("*.py")):
            archive.add(module, f"llama_cpp/{module.name}")


def pack_words(target: Path) -> None:
    from benchweights import shipped_model

    from gpucheck.shapes import write_words

    write_words(Path(shipped_model()), target)


def pinned(has: Sequence[str]) -> list[str]:
    """Requirements for what the machine lacks. Raises SystemExit if none was tested."""
    known = {name.casefold() for name in has}
    wanted = WHEELS + (WITH_TORCH if "torch" in known else ())
    lines = (ROOT / "scripts" / "tested.txt").read_text().splitlines()
    tested = {line.partition("==")[0].casefold(): line for line in lines}
    names = [name.casefold() for name in wanted if name.casefold() not in known]
    if unknown := [name for name in names if name not in tested]:
        sys.exit(f"scripts/tested.txt has no {', '.join(unknown)}")
    return [tested[name] for name in names]


def fetch_wheels(folder: Path, python: str, has: Sequence[str]) -> None:
    """By pip, for the other machine's Python."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", python, "--implementation", "cp", "-d", str(folder)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    if subprocess.run([*command, "-q", *pinned(has)]).returncode:
        sys.exit("pip could not fetch all wheels: its lines above say which")
