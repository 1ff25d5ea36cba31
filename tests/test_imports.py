"""Imports point one way, and a few libraries stay in the rooms that own them."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "localinfra"
FILES = sorted(PACKAGE.rglob("*.py"))

# The rooms of a folder (a room is a folder or a single file in it), from the ground up: a file sees
# its own room and the rows above it.
LAYERS: dict[str, list[set[str]]] = {
    "": [
        {"steps", "scratch"},
        {"long_text"},
        {"addresses", "errors", "footprint", "metrics", "backend_detect", "comments", "logs"}
        | {"nvidia_libraries", "outlet", "wheels"},
        {"shares"},
        {"cache", "chance", "children", "executor", "garbage", "install", "machine", "watchdog"}
        | {"certificate", "interpreter", "llama_builds", "picture_parts", "pictures"}
        | {"torch_loads"},
        {"deaths", "devices", "journal", "sounds", "wills"},
        {"supervisor"},
        {"config", "chat", "keys", "engine", "costs", "llama_usable"},
        {"models", "llama", "prefixes", "conversations"},
        {"optimize"},
        {"text", "embed", "image"},
        {"kinds", "origin"},
        {"safeguard"},
        {"runtime"},
        {"leases"},
        {"api"},
        {"scale"},
        {"ray_serve"},
        {"cli", "testing"},
        {"__main__", "pytest_plugin"},
    ],
    "engine": [
        {"drafts", "grammar", "offloaded", "policy", "runs", "stops"},
        {"pictures"},
        {"request"},
        {"draws"},
        {"candidates"},
        {"backend"},
        {"node"},
        {"radix"},
        {"copies"},
        {"relaying", "states", "tidying"},
        {"kvcache"},
        {"logprobs", "output", "sampling"},
        {"sequence"},
        {"generation", "step", "turns"},
        {"borders", "draft_model", "keeping", "postprocess", "seeing", "waiting"},
        {"canonical"},
        {"drafting"},
        {"batching"},
        {"scheduler"},
        {"engine"},
        {"deltas"},
    ],
    "chat": [
        {"decoding", "encoding", "partial", "sandbox", "unread"},
        {"messages"},
        {"control_tokens", "schema", "variables"},
        {"formats"},
        {"thoughts"},
        {"calls", "forms", "grammar", "ids", "rendering"},
        {"answer", "sketch", "voice"},
        {"fitting"},
        {"relaxing", "template"},
    ],
    "models": [
        {
            "budget",
            "failures",
            "gguf",
            "names",
            "places",
            "quants",
            "sampling",
            "swaps",
            "versions",
        },
        {"seats", "sources"},
        {"companions", "details", "looks", "senses", "sharing"},
        {"entries", "pool"},
        {"files", "found", "kv_cache", "measured"},
        {"histories", "known_headers"},
        {"catalog", "memory", "trials"},
        {"fetch"},
    ],
    "api": [
        {"exposition"},
        {"http", "vectors"},
        {"generation", "metrics", "page", "probes", "sockets"},
        {"call"},
        {"fetched"},
        {"pictures"},
        {"openai", "anthropic", "chats", "requests", "rerank", "tokens"},
        {"cohere", "deepinfra", "ollama"},
        {"openapi"},
        {"docs"},
        {"app"},
    ],
}

# A library → the only paths (under localinfra/) that may import it.
OWNERS: dict[str, str | tuple[str, ...]] = {
    "llama_cpp": "llama/library.py",
    "llguidance": ("engine/grammar/", "llama/"),
    "jinja2": "chat/",
    "starlette": ("api/", "scale/", "ray_serve.py"),
    "prometheus_client": ("api/exposition.py", "cli/readings.py"),
    "sqlite3": "conversations/",
    "uvicorn": ("api/sockets/",),
    "httptools": "api/sockets/",
    "sentence_transformers": "embed/",
    "torch": ("embed/", "image/"),
    "onnxruntime": "embed/",
    "openvino": "embed/",
    "tokenizers": "embed/",
    "diffusers": "image/",
    "ray": "ray_serve.py",
    "httpcore2": "models/fetch/",
    "httpx2": "models/fetch/",
    "huggingface_hub": "models/fetch/",
    "soundfile": "sounds/decoder.py",
    "PIL": ("pictures.py", "image/"),
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


def room_in(house: str, parts: Sequence[str]) -> str | None:
    """The room of `house` in which a path or a module's name below localinfra/ lies, if any."""
    if not house:
        return parts[0]
    return parts[1] if parts[0] == house and len(parts) > 1 else None


def parts_of(file: Path) -> tuple[str, ...]:
    return file.relative_to(PACKAGE).with_suffix("").parts


def rooms_seen_by(file: Path, house: str) -> set[str]:
    names = [name.split(".") for name in imported(file)]
    rooms = {room_in(house, name[1:]) for name in names if name[0] == "localinfra" and name[1:]}
    return {room for room in rooms if room} - {"__version__"}


@pytest.mark.parametrize("house", LAYERS)
def test_every_room_has_a_layer(house: str) -> None:
    rooms = {room_in(house, parts_of(file)) for file in FILES} - {"__init__", None}
    assert rooms <= set().union(*LAYERS[house]), "give the new room its row in LAYERS"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    for house, rows in LAYERS.items():
        own = room_in(house, parts_of(file))
        if own is None or own == "__init__":
            continue
        at = next(at for at, rooms in enumerate(rows) if own in rooms)
        upward = rooms_seen_by(file, house) - {own}.union(*rows[:at])
        assert not upward, f"{own} must not know {upward}"


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=lambda at: at.name)
def test_every_package_says_what_it_owns(folder: Path) -> None:
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_libraries_stay_with_their_owners(file: Path) -> None:
    path = file.relative_to(PACKAGE).as_posix()
    libraries = {name.split(".")[0] for name in imported(file)}
    foreign = {name for name in libraries & OWNERS.keys() if not path.startswith(OWNERS[name])}
    assert not foreign, f"only {[OWNERS[name] for name in foreign]} may import {foreign}"


PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "diskcache"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_unpickles_or_runs_code_of_others(file: Path) -> None:
    assert not {name.split(".")[0] for name in imported(file)} & PICKLES
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {each.arg: ast.unparse(each.value) for each in node.keywords}
            assert called != "torch.load"
            assert given.get("trust_remote_code", "False") == "False"
            assert given.get("allow_pickle", "False") == "False"
            if called.endswith("Pipeline.from_pretrained"):
                assert given["use_safetensors"] == "True"
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                trusts = key is not None and ast.unparse(key) == "'trust_remote_code'"
                assert not trusts or ast.unparse(value) == "False"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "localinfra.api.app",
            "torch transformers sentence_transformers diffusers uvicorn ray prometheus_client",
        ),
        ("localinfra.cli.main", "torch llama_cpp numpy starlette uvicorn"),
        ("localinfra.runtime", "httpx2 huggingface_hub"),
        ("localinfra.engine.engine", "llama_cpp starlette torch"),
        ("localinfra.optimize.store", "llama_cpp numpy"),
        ("localinfra.backend_detect", "llama_cpp numpy msgspec"),
        ("localinfra.llama_builds", "llama_cpp numpy msgspec"),
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


def test_no_two_classes_have_one_name() -> None:
    files: dict[str, list[str]] = {}
    for path in FILES:
        for found in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.M):
            files.setdefault(found, []).append(str(path.relative_to(PACKAGE)))
    assert not {name: paths for name, paths in files.items() if len(paths) > 1}
