"""Reads the header of a GGUF file, and refuses what would crash llama.cpp.

Owns the file format: bytes → `GgufHeader`, or `BadGguf` with the remedy. What llama.cpp asserts on
the content is in `checks.py`. Reads the start of a file, never weights, and maps nothing: a file
truncated meanwhile must not cause a SIGBUS. Format: ggml/docs/gguf.md, with the limits of
ggml/src/gguf.cpp in the pinned revision.
"""

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from localinfra.models.gguf import checks
from localinfra.models.gguf.header import (
    Array,
    BadGguf,
    GgufHeader,
    GgufVocabulary,
    Metadatum,
    Tensor,
)
from localinfra.models.gguf.parts import whole
from localinfra.models.gguf.projector import projector_problem

__all__ = ["Array", "BadGguf", "GgufHeader", "Tensor", "check_start", "glance", "read_header"]

FIRST_READ_BYTES = 16 << 20  # fits the header of a 262k vocabulary; a longer one takes more reads
MAX_HEADER_BYTES = 1 << 30
GLANCE_BYTES = 256 << 10
START_BYTES = 24  # magic, version, and how many tensors and keys follow
MAX_KEY_BYTES = 65535  # gguf.md
MAX_NAME_BYTES = 63  # GGML_MAX_NAME less its NUL
MAX_KEYS = MAX_TENSORS = 1 << 20
KEPT_STRINGS, KEPT_NUMBERS = 64, 512  # arrays up to here keep their values; 512: LLAMA_MAX_LAYERS
MAPPED_ALIGNMENT = 32  # ggml_backend_cpu_buffer_from_ptr asserts it

# Metadata types by their number in the file; bool is read as a byte, since any value but 0 is true.
SCALARS = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B"},
    **{10: "<Q", 11: "<q", 12: "<d"},
}
U16, BOOL, STRING, ARRAY = 2, 7, 8, 9
SCORES, TOKEN_TYPES = "tokenizer.ggml.scores", "tokenizer.ggml.token_type"
VOCABULARY_NUMBERS = {(SCORES, 6), (TOKEN_TYPES, 5)}

# ggml_type → (name, weights in a block, bytes of a block): ggml_blck_size and ggml_type_size.
BLOCKS = {
    **{0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20)},
    **{6: ("q5_0", 32, 22), 7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36)},
    **{10: ("q2_K", 256, 84), 11: ("q3_K", 256, 110), 12: ("q4_K", 256, 144)},
    **{13: ("q5_K", 256, 176), 14: ("q6_K", 256, 210), 15: ("q8_K", 256, 292)},
    **{16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98)},
    **{19: ("iq1_s", 256, 50), 20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110)},
    **{22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136), 24: ("i8", 1, 1), 25: ("i16", 1, 2)},
    **{26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8), 29: ("iq1_m", 256, 56)},
    **{30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66)},
    **{39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18), 42: ("q2_0", 64, 18)},
}

# Files that people mistake for GGUF: their first bytes, and the problem.
IMPOSTORS = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the model itself; run `git lfs pull`"),
    (b"<", "is a web page, not a model; download the file itself, not the page about it"),
    (b"{", "is JSON, perhaps an error a download returned; fetch the .gguf file again"),
    (b"PK\x03\x04", "is a zip archive or a PyTorch checkpoint; convert it to GGUF first"),
    (b"\x80", "is a Python pickle (a PyTorch checkpoint); convert it to GGUF first"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"FUGG", "is a big-endian GGUF file; this machine needs the little-endian one"),
    (b"lmgg", "is a GGML file of 2023, older than GGUF; fetch a .gguf of this model"),
    (b"tjgg", "is a GGJT file of 2023, older than GGUF; fetch a .gguf of this model"),
    (b"\0\0\0\0", "begins with zeros: its download did not finish; fetch it again"),
)

_U64 = struct.Struct("<Q")


def read_header(path: str | os.PathLike[str], *, embeds: bool = False) -> GgufHeader:
    """The header of a model file that passed all checks for text, or with `embeds` for vectors.
    `path`: of the first part, if the model is split into several files.

    Raises BadGguf if a file is absent, not GGUF, damaged, or would make llama.cpp abort.
    """
    header, tokenizer = _read(Path(path))
    header = whole(header, lambda part: _read(part)[0])
    for problem in checks.problems(header, tokenizer, embeds=embeds):
        raise BadGguf(path, problem)
    return header


def read_adapter(path: str | os.PathLike[str]) -> GgufHeader:
    """The header of a LoRA file. llama.cpp itself refuses one that does not fit the model.

    Raises BadGguf like `read_header`, and for a file that is not a LoRA adapter.
    """
    header, _ = _read(Path(path))
    kind = header.metadata.get("general.type"), header.metadata.get("adapter.type")
    if kind != ("adapter", "lora"):
        raise BadGguf(path, "is not a LoRA adapter; use llama.cpp's convert_lora_to_gguf.py")
    return header


def read_projector(path: str | os.PathLike[str], model: GgufHeader) -> GgufHeader:
    """The header of an mmproj file that passed the checks, for the text model with this header.

    Raises BadGguf like `read_header`, and for a file that doesn't belong to the model.
    """
    header, _ = _read(Path(path))
    if problem := projector_problem(header, model):
        raise BadGguf(path, problem)
    return header


def check_start(path: Path) -> None:
    """Raises BadGguf if the first bytes are not those of GGUF; `read_header` checks the rest."""
    with contextlib.suppress(_NeedsMore), _opened(path) as (file, size_bytes):
        _Parser(path, file.read(START_BYTES), size_bytes).start()


def glance(path: Path) -> dict[str, Metadatum]:
    """The metadata at the start of a model file, up to its vocabulary if that is large. Takes
    milliseconds. Raises BadGguf for a file that is absent or not GGUF; `read_header` checks the
    rest."""
    found: dict[str, Metadatum] = {}
    with contextlib.suppress(_NeedsMore), _opened(path) as (file, size_bytes):
        parser = _Parser(path, file.read(GLANCE_BYTES), size_bytes)
        _, _, num_keys = parser.start()
        for key, value in parser.keys(num_keys):
            found[key] = value
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size. Raises BadGguf, also for an OSError while it is read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadGguf(path, "is not a file; give the path of a .gguf file")
        with path.open("rb") as file:
            yield file, status.st_size
    except OSError as error:
        raise BadGguf(path, f"can't be read: {error.strerror or error}") from error


def _read(path: Path) -> tuple[GgufHeader, GgufVocabulary]:
    with _opened(path) as (file, size_bytes):
        data = file.read(FIRST_READ_BYTES)
        while True:
            parser = _Parser(path, data, size_bytes)
            try:
                return parser.parse(), parser.tokenizer
            except _NeedsMore:
                more = file.read(3 * len(data))  # the file may have shrunk meanwhile
                if not more or len(data) > MAX_HEADER_BYTES:
                    parser.fail("has no readable header; fetch it again")
                data += more


class _NeedsMore(Exception):
    """The header continues beyond the bytes read so far."""


class _Parser:
    """One pass over the start of a file. `what` names the part being read, for messages."""

    def __init__(self, path: Path, data: bytes, size_bytes: int):
        self.path = path
        self.data = data
        self.size_bytes = size_bytes
        self.at = 0
        self.what = "its header"
        self.tokenizer = GgufVocabulary()
        self.types: dict[str, int] = {}

    def fail(self, problem: str) -> NoReturn:
        raise BadGguf(self.path, problem)

    def parse(self) -> GgufHeader:
        version, num_tensors, num_keys = self.start()
        metadata: dict[str, Metadatum] = {}
        for key, value in self.keys(num_keys):
            if not key or key in metadata:
                self.fail(f"has the metadata key {key!r} twice or empty; fetch it again")
            metadata[key] = value
        if not num_tensors and metadata.get("split.count", 1) == 1:
            self.fail("has no tensors; fetch it again")
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            self.fail(f"has general.alignment {alignment!r}, not a power of two; convert it again")
        tensors = self.tensors(num_tensors, alignment)
        data_offset = -(-self.at // alignment) * alignment
        header = GgufHeader(
            path=str(self.path),
            version=version,
            metadata=metadata,
            tensors=tensors,
            data_offset=data_offset,
            size_bytes=self.size_bytes,
            types=self.types,
        )
        self.check_ends(header)
        return header

    def start(self) -> tuple[int, int, int]:
        """Magic and counts → version, number of tensors, number of metadata keys."""
        if not self.data:
            self.fail("is empty: its download did not begin; fetch it again")
        if self.data[:4] != b"GGUF":
            self.fail(_looks_like(self.data))
        version, num_tensors, num_keys = struct.unpack_from("<IQQ", self.data, self.take(24) + 4)
        if version & 0xFFFF == 0:
            self.fail("is a big-endian GGUF file; this machine needs the little-endian one")
        if version not in (2, 3):
            self.fail(f"is GGUF version {version}; only 2 and 3 are known: fetch a current file")
        if num_tensors > MAX_TENSORS or num_keys > MAX_KEYS:
            self.fail(f"claims {num_tensors} tensors and {num_keys} metadata keys; fetch it again")
        return version, num_tensors, num_keys

    def keys(self, num_keys: int) -> Iterator[tuple[str, Metadatum]]:
        for _ in range(num_keys):
            self.what = "the next metadata key"
            key = self.text(MAX_KEY_BYTES)
            self.what = f"the value of {key}"
            yield key, self.value(key)

    def take(self, count: int) -> int:
        """Steps over `count` bytes and returns where they begin."""
        start = self.at
        self.at += count
        if self.at > len(self.data):
            self.missing(self.at)
        return start

    def missing(self, end: int) -> NoReturn:
        if end <= self.size_bytes and len(self.data) < self.size_bytes:
            raise _NeedsMore
        self.fail_truncated(end)

    def u32(self) -> int:
        return int.from_bytes(self.data[self.take(4) : self.at], "little")

    def u64(self) -> int:
        return int.from_bytes(self.data[self.take(8) : self.at], "little")

    def text(self, limit: int | None = None, strict: bool = True) -> str:
        """A string. NUL is refused: C would see a shorter one than Python does."""
        length = self.u64()
        if limit is not None and length > limit:
            self.fail(f"is damaged: {self.what} is {length:,} bytes long; fetch it again")
        raw = self.data[self.take(length) : self.at]
        if b"\0" in raw:
            self.fail(f"is damaged: {self.what} contains a NUL byte; fetch it again")
        try:
            return raw.decode(errors="strict" if strict else "replace")
        except UnicodeDecodeError:
            self.fail(f"is damaged: {self.what} is not UTF-8; fetch it again")

    def value(self, key: str) -> Metadatum:
        kind = self.u32()
        if key.startswith("clip."):
            self.types[key] = kind
        if kind == STRING:  # names and licences are only shown: Latin-1 is harmless
            return self.text(strict=key.partition(".")[0] != "general" or "architecture" in key)
        if kind == ARRAY:
            return self.array(key)
        if key == "split.no" and kind != U16:  # gguf_get_val_u16 asserts it
            self.fail("is damaged: its part number is of another type; fetch it again")
        number = self.scalars(kind, 1)[0]
        return bool(number) if kind == BOOL else number

    def scalars(self, kind: int, count: int) -> tuple[int | float, ...]:
        if kind not in SCALARS:
            self.fail(f"is damaged: {self.what} is of unknown type {kind}; fetch it again")
        code = SCALARS[kind][1]
        start = self.take(count * struct.calcsize(SCALARS[kind]))
        return struct.unpack_from(f"<{count}{code}", self.data, start)

    def array(self, key: str) -> Array:
        kind, length = self.u32(), self.u64()
        if kind == STRING:
            wanted = key == "tokenizer.ggml.tokens"
            raw = self.strings(length, keep=wanted or length <= KEPT_STRINGS)
            if wanted:
                self.tokenizer.tokens = raw
            if length > KEPT_STRINGS:
                return Array(kind, length, None)
            return Array(kind, length, tuple(text.decode(errors="replace") for text in raw))
        if kind not in SCALARS:
            self.fail(f"is damaged: {self.what} is of unknown type {kind}; fetch it again")
        if length <= KEPT_NUMBERS:
            start = self.at
            values = self.scalars(kind, length)
        else:
            start, values = self.take(length * struct.calcsize(SCALARS[kind])), None
        if (key, kind) in VOCABULARY_NUMBERS:
            self.keep_numbers(key, length, start)
        return Array(kind, length, values)

    def keep_numbers(self, key: str, length: int, start: int) -> None:
        import numpy as np  # not for a glance: most commands do no more

        if key == SCORES:
            self.tokenizer.scores = np.frombuffer(self.data, "<f4", length, start)
        else:
            self.tokenizer.token_types = np.frombuffer(self.data, "<i4", length, start)

    def strings(self, count: int, keep: bool) -> list[bytes]:
        """Skips `count` strings. No calls in the loop: some files have a quarter of a million."""
        if self.at + 8 * count > self.size_bytes:
            self.missing(self.at + 8 * count)
        data, at, length_at, kept = self.data, self.at, _U64.unpack_from, list[bytes]()
        try:
            for _ in range(count):
                (length,) = length_at(data, at)
                start = at + 8
                at = start + length
                if keep:
                    kept.append(data[start:at])
        except (struct.error, OverflowError, IndexError):  # `at` is beyond the data, or absurd
            self.missing(at + 8)
        self.at = at
        if at > len(data):
            self.missing(at)
        return kept

    def tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        tensors: dict[str, Tensor] = {}
        expected_offset = 0  # llama.cpp accepts only tensors in order and without gaps
        for _ in range(count):
            self.what = "the next tensor's description"
            name = self.text(MAX_NAME_BYTES)
            self.what = f"the description of tensor {name}"
            tensor = self.tensor(name)
            if name in tensors:
                self.fail(f"has two tensors named {name!r}; fetch it again")
            if tensor.offset != expected_offset:
                self.fail(
                    f"is damaged: tensor {name} is at offset {tensor.offset:,}, "
                    f"expected {expected_offset:,}; fetch it again"
                )
            tensors[name] = tensor
            expected_offset += -(-tensor.size_bytes // alignment) * alignment
        return tuple(tensors.values())

    def tensor(self, name: str) -> Tensor:
        num_dims = self.u32()
        if not 1 <= num_dims <= 4:
            self.fail(f"is damaged: tensor {name} has {num_dims} dimensions; fetch it again")
        shape = tuple(self.u64() for _ in range(num_dims))
        kind, offset = self.u32(), self.u64()
        if kind not in BLOCKS:
            self.fail(
                f"stores tensor {name} as ggml type {kind}, which this llama.cpp does not have; "
                "fetch another quantization"
            )
        _, weights, block_bytes = BLOCKS[kind]
        size_bytes = block_bytes
        for size in (shape[0] // weights, *shape[1:]):
            size_bytes *= size
        if 0 in shape or shape[0] % weights or size_bytes >= 1 << 62:
            self.fail(f"is damaged: tensor {name} has the shape {shape}; fetch it again")
        return Tensor(name=name, shape=shape, type=kind, offset=offset, size_bytes=size_bytes)

    def check_ends(self, header: GgufHeader) -> None:
        """Checks that every tensor is inside the file, and aligned for a mapped file."""
        for tensor in header.tensors:
            start = header.data_offset + tensor.offset
            if start % MAPPED_ALIGNMENT:
                self.fail(
                    f"has tensor {tensor.name} at byte {start:,}, not a multiple of "
                    f"{MAPPED_ALIGNMENT}; convert the model again"
                )
            self.what = f"tensor {tensor.name}"
            if start + tensor.size_bytes > self.size_bytes:
                self.fail_truncated(start + tensor.size_bytes)

    def fail_truncated(self, end: int) -> NoReturn:
        self.fail(
            f"is truncated: {self.what} ends at byte {end:,}, the file has {self.size_bytes:,}; "
            "fetch it again"
        )


def _looks_like(data: bytes) -> str:
    """Says what a file without GGUF's magic probably is."""
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < MAX_HEADER_BYTES:
        return "is a safetensors file; convert it to GGUF, or fetch a .gguf of this model"
    for start, problem in IMPOSTORS:
        if data.lstrip().startswith(start) if start in (b"<", b"{") else data.startswith(start):
            return problem
    return f"is not a GGUF file: it begins with {data[:4]!r}; fetch a .gguf of this model"
