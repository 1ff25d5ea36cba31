"""How an encoder is computed on this machine: measured once by `prepare.py`, kept in the cache.

`measuring.py` runs that beside serving.

Pure but for the files in the cache. A plan belongs to the folder's files, the machine's CPU and the
installed versions; when one of them changes, it is made again.
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
MIN_COSINE = 0.9999  # between the rows of two ways of computing that count as the same
MAX_DIFFERENCE = 1e-3  # the same for a cross-encoder's score
KEPT_UNUSED_S = 30 * 86_400
LIBRARIES = (
    *("torch", "transformers", "tokenizers", "sentence-transformers"),
    *("onnxruntime", "openvino", "onnxscript"),
)


class Request(msgspec.Struct, frozen=True):
    """What `prepare.py` is to do."""

    folder: str
    kind: Kind
    out: str
    threads: int
    max_tokens: int | None = None
    ways: tuple[str, ...] | None = None  # those to try; None: all that are installed


class MeasuredWay(msgspec.Struct, frozen=True):
    nearness: float  # to torch in float32: the least cosine, or 1 less the largest difference
    is_near: bool  # the same vectors or scores, for all that they are used for
    short_s: float  # one short text
    mixed_s: float  # thirty texts of mixed lengths


class EncoderPlan(msgspec.Struct, frozen=True):
    description: Description
    measured: dict[str, MeasuredWay]  # by the name of the way

    def fastest(self, *, exact: bool) -> str:
        """Of those that give the same; with `exact`, of those that compute in float32."""
        near = {
            name: result.short_s * result.mixed_s
            for name, result in self.measured.items()
            if result.is_near and not (exact and name.endswith("-bf16"))
        }
        return min(near, key=near.__getitem__)


def load(folder: Path) -> EncoderPlan | None:
    """The plan that is kept there; None where there is none that can be read."""
    path = folder / PLAN
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=EncoderPlan)
        os.utime(path)  # it is used
    except (OSError, msgspec.MsgspecError):
        return None
    return plan


def place(cache: Path, folder: Path, identity: str) -> Path:
    """Where the plan of a folder is kept."""
    path = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return cache / f"{folder.name}-{path}-{identity}"


def drop_unused(cache: Path) -> None:
    """Removes plans that nobody has loaded for a month: of files or versions that are gone."""
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
    """Names what a plan belongs to, in 16 hexadecimal digits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [kind, cpu, str(threads), str(max_tokens), str(ways)]
    for path in files:
        stat = path.stat()
        parts.append(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}")
    parts += [f"{name} {version(name)}" for name in LIBRARIES]
    # What makes plans and computes by them: where it changes, they are made again.
    parts += [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
