"""How an encoder is computed on this machine: measured once by `prepare.py`, kept in the cache.

Pure but for the files in the cache. A plan belongs to the folder's files, the machine's CPU and the
installed versions; when one of them changes, it is made again.
"""

import hashlib
import importlib.metadata
import shutil
from pathlib import Path
from typing import Literal

import msgspec

from localinfra.embed.encoder import Description

PLAN, GRAPH, TOKENIZER = "plan.json", "model.onnx", "tokenizer.json"
MIN_COSINE = 0.9999  # between the rows of two ways of computing that count as the same
LIBRARIES = ("torch", "sentence-transformers", "onnxruntime", "openvino", "onnxscript")


class Request(msgspec.Struct, frozen=True):
    """What `prepare.py` is to do."""

    folder: str
    kind: Literal["embedding", "rerank"]
    out: str
    threads: int
    max_tokens: int | None = None


class Measured(msgspec.Struct, frozen=True):
    nearness: float  # to torch in float32: the least cosine, or 1 less the largest difference
    short_s: float  # one short text
    mixed_s: float  # eighty texts of mixed lengths


class Plan(msgspec.Struct, frozen=True):
    fastest: str  # a key of `measured`
    description: Description
    measured: dict[str, Measured]


def load(folder: Path) -> Plan | None:
    """The plan that is kept there; None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / PLAN).read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError):
        return None


def place(cache: Path, folder: Path, identity: str) -> Path:
    """Where the plan of a folder is kept."""
    path = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return cache / f"{folder.name}-{path}-{identity}"


def drop_older(place: Path) -> None:
    """Removes the plans that this one takes the place of: of other versions or other files."""
    for older in place.parent.glob(f"{place.name.rpartition('-')[0]}-*"):
        if older != place:
            shutil.rmtree(older, ignore_errors=True)


def fingerprint(folder: Path, kind: str, cpu: str, threads: int, max_tokens: int | None) -> str:
    """Names what a plan belongs to, in 16 hexadecimal digits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [kind, cpu, str(threads), str(max_tokens)]
    for path in files:
        stat = path.stat()
        parts.append(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}")
    parts += [f"{name} {version(name)}" for name in LIBRARIES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
