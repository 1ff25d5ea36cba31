"""The best way to compute an encoder on this machine: measured once by `prepare.py`, then cached.

`measuring.py` runs that while serving. Touches only files in the cache. A plan is valid for the
model's files, the machine's CPU and the installed versions; if one of them changes, it is remade.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import time
from pathlib import Path

import msgspec

from localinfra.embed.encoder import Description, Kind

PLAN, GRAPH, TOKENIZER = "plan.json", "model.onnx", "tokenizer.json"
MIN_COSINE = 0.9999  # between rows of two ways that count as the same
MAX_DIFFERENCE = 1e-3  # the same for a cross-encoder's score
KEPT_UNUSED_S = 30 * 86_400
LIBRARIES = (
    *("torch", "transformers", "tokenizers", "sentence-transformers"),
    *("onnxruntime", "openvino", "onnxscript"),
)


class Request(msgspec.Struct, frozen=True):
    """The job for `prepare.py`."""

    folder: str
    kind: Kind
    out: str
    threads: int
    max_tokens: int | None = None
    ways: tuple[str, ...] | None = None  # those to try; None: all that are installed


class MeasuredWay(msgspec.Struct, frozen=True):
    nearness: float  # to torch in float32: the least cosine, or 1 less the largest difference
    is_near: bool  # the same vectors or scores, for all practical purposes
    short_s: float  # one short text
    mixed_s: float  # thirty texts of mixed lengths


class EncoderPlan(msgspec.Struct, frozen=True):
    description: Description
    measured: dict[str, MeasuredWay]  # by the name of the way

    def fastest(self, *, exact: bool) -> str:
        """The fastest way with the same results; with `exact`, only among those in float32."""
        near = {
            name: result.short_s * result.mixed_s
            for name, result in self.measured.items()
            if result.is_near and not (exact and name.endswith("-bf16"))
        }
        return min(near, key=near.__getitem__)


def load(folder: Path) -> EncoderPlan | None:
    """Reads the plan in a folder; None if there is no readable one."""
    path = folder / PLAN
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=EncoderPlan)
        os.utime(path)  # marks it as used
    except (OSError, msgspec.MsgspecError):
        return None
    return plan


def place(cache: Path, folder: Path, identity: str) -> Path:
    """The cache folder for a model folder's plan."""
    path = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return cache / f"{folder.name}-{path}-{identity}"


def drop_unused(cache: Path) -> None:
    """Removes plans not loaded for a month, such as those of old files or versions."""
    for path in cache.glob(f"*/{PLAN}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > KEPT_UNUSED_S:
                shutil.rmtree(path.parent, ignore_errors=True)


def fingerprint(
    folder: Path,
    kind: str,
    cpu: str,
    threads: int,
    max_tokens: int | None,
    ways: tuple[str, ...] | None = None,
) -> str:
    """Identifies all that a plan depends on, in 16 hexadecimal digits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [kind, cpu, str(threads), str(max_tokens), str(ways)]
    for path in files:
        stat = path.stat()
        parts.append(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}")
    parts += [f"{name} {version(name)}" for name in LIBRARIES]
    # The code that makes and uses plans: if it changes, plans are remade.
    parts += [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
