"""Imports point one way, and a few libraries stay in the rooms that own them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "localinfra"
FILES = sorted(PACKAGE.rglob("*.py"))

# A file sees its own room (a folder or a single file here) and the rows above it.
LAYERS = [
    {"errors", "metrics", "backend_detect", "logs"},
    {"cache", "children", "executor", "install", "machine", "tables"},
    {"config", "chat", "engine", "costs"},
    {"models", "llama"},
    {"text", "embed", "image", "optimize"},
    {"loading", "loading_encoders", "loading_images"},
    {"runtime"},
    {"api"},
    {"cli", "ray_serve", "testing"},
    {"__main__", "pytest_plugin"},
]
LAYER_OF = {room: at for at, rooms in enumerate(LAYERS) for room in rooms}

# A library → the only paths (under localinfra/) that may import it.
OWNERS: dict[str, str | tuple[str, ...]] = {
    "llama_cpp": "llama/",
    "starlette": "api/",
    "uvicorn": ("api/connection.py", "api/server.py", "cli/serve.py"),
    "httptools": "api/connection.py",
    "sentence_transformers": "embed/",
    "torch": ("embed/", "image/"),
    "onnxruntime": "embed/",
    "openvino": "embed/",
    "tokenizers": "embed/",
    "diffusers": "image/",
    "ray": "ray_serve.py",
    "pytest": "pytest_plugin.py",
    "openai": "pytest_plugin.py",
}


def imported(file: Path) -> Iterator[str]:
    """Every module a file imports, at its top or inside a function, by its full name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_seen_by(file: Path) -> set[str]:
    parts = [name.split(".") for name in imported(file)]
    rooms = {name[1] for name in parts if name[0] == "localinfra" and len(name) > 1}
    return rooms - {"__version__", room_of(file)}


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(file) for file in FILES} - {"__init__"}
    assert rooms <= LAYER_OF.keys(), "give the new room its row in LAYERS"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    own = LAYER_OF.get(room_of(file), 0)
    upward = {room for room in rooms_seen_by(file) if LAYER_OF[room] >= own}
    assert not upward, f"{room_of(file)} must not know {upward}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_libraries_stay_with_their_owners(file: Path) -> None:
    path = file.relative_to(PACKAGE).as_posix()
    libraries = {name.split(".")[0] for name in imported(file)}
    foreign = {name for name in libraries & OWNERS.keys() if not path.startswith(OWNERS[name])}
    assert not foreign, f"only {[OWNERS[name] for name in foreign]} may import {foreign}"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("localinfra.api.app", "torch transformers sentence_transformers diffusers uvicorn ray"),
        ("localinfra.cli.main", "torch llama_cpp numpy starlette uvicorn"),
        ("localinfra.engine.engine", "llama_cpp starlette torch"),
        ("localinfra.optimize.store", "llama_cpp numpy"),
        ("localinfra.backend_detect", "llama_cpp numpy msgspec"),
        ("localinfra.pytest_plugin", "localinfra.testing msgspec asyncio openai"),
        ("localinfra.testing", "llama_cpp numpy torch pytest"),
    ],
)
def test_importing_a_module_leaves_heavy_libraries_alone(module: str, unwanted: str) -> None:
    if not (PACKAGE.parent / (module.replace(".", "/") + ".py")).exists():
        pytest.skip(f"{module} is not written yet")
    program = f"import sys, {module}; print(*set({unwanted.split()}) & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
