"""What a model's files say about it to people: its family, size and quantization.

Reads the first bytes of a GGUF file, or its whole header, once, and of other files only names and
sizes. Blocking.
"""

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localinfra.models import quants

if TYPE_CHECKING:
    from localinfra.models.gguf.header import Metadatum

SHA256 = re.compile(r"(?:sha256-)?([0-9a-f]{64})")  # how hubs and registries name their blobs

# llama.cpp's llama_ftype, as far as files have one type for most of their weights.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip


class FileDetails(msgspec.Struct, frozen=True):
    """Empty texts: the files don't say."""

    format: str  # gguf or safetensors
    family: str  # its architecture, as in GGUF files
    parameters: str  # their number, such as 135M
    quantization: str
    size_bytes: int
    modified_s: float  # since the epoch
    digest: str  # 64 hexadecimal digits, other ones for other files


def file_details(path: Path) -> FileDetails:
    """Of a file, the first of several parts, or a folder. Raises OSError."""
    if path.is_dir():
        files = tuple(sorted(file for file in path.rglob("*") if file.is_file()))
    else:
        files = tuple(path.with_name(part) for part in quants.parts(path.name))
    facts = [file.stat() for file in files]
    return _file_details(
        path,
        sum(fact.st_size for fact in facts),
        max((fact.st_mtime for fact in facts), default=0.0),
    )


@functools.lru_cache(maxsize=4096)
def _file_details(path: Path, size_bytes: int, modified_s: float) -> FileDetails:
    """`size_bytes` and `modified_s` tell one content from another."""
    metadata = {} if path.is_dir() else glanced(path)
    named = SHA256.fullmatch(path.resolve().name)
    facts = f"{path} {size_bytes} {modified_s}"
    file_type = metadata.get("general.file_type")
    return FileDetails(
        format="safetensors" if path.is_dir() else "gguf",
        family=str(metadata.get("general.architecture", "")),
        parameters=str(metadata.get("general.size_label", "")),
        quantization=FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else "",
        size_bytes=size_bytes,
        modified_s=modified_s,
        digest=named[1] if named else hashlib.sha256(facts.encode()).hexdigest(),
    )


class HeaderDetails(msgspec.Struct, frozen=True):
    """What a GGUF file's header says."""

    metadata: Mapping[str, object] = {}  # lists that are too long to keep are null
    num_parameters: int | None = None


@functools.lru_cache(maxsize=64)
def header_details(path: Path, found: FileDetails, *, embeds: bool) -> HeaderDetails:
    """`found` tells one content from another; `embeds`: it is a model for vectors. Takes up to half
    a second the first time."""
    from localinfra.models.gguf.reader import BadGguf, read_header

    try:
        header = read_header(path, embeds=embeds)
    except BadGguf:
        return HeaderDetails(plain(glanced(path)))
    sizes = (math.prod(tensor.shape) for tensor in header.tensors)
    return HeaderDetails(plain(header.metadata), sum(sizes))


def plain(metadata: "Mapping[str, Metadatum]") -> dict[str, object]:
    """The values as JSON has them."""
    from localinfra.models.gguf.header import Array

    return {
        key: value.values if isinstance(value, Array) else value for key, value in metadata.items()
    }


def glanced(path: Path) -> "dict[str, Metadatum]":
    """The start of a GGUF file's metadata; empty if it is damaged."""
    from localinfra.models.gguf.reader import BadGguf, glance

    try:
        return glance(path)
    except BadGguf:
        return {}
