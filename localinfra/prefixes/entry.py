"""The format of a file: a header that says what its cells are of, then the cells. Pure.

An entry without tokens is a state: what a model needs to go on at that position besides cells.

Little-endian: `FIXED`, the token ids as int32, a keyed hash of all this, then the data with the
CRC-32 that the header names. The key is this folder's secret, so a header that fits was written
here. A file is named by a keyed hash of all that determines its contents, its parent's name among
them, so that a name stands for a whole prefix and never for two contents.
"""

import hmac
import struct
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from localinfra.engine.offloaded import MAX_OFFLOADED

MAGIC = b"lcprefix"
VERSION = 1
# Magic, version, canonical or not, model, salt, parent, bytes and CRC-32 of the data, start, tokens
FIXED = struct.Struct("<8sHH16s16s16sQIII")
HASH_BYTES = 16
MAX_HEADER_BYTES = FIXED.size + 4 * MAX_OFFLOADED + HASH_BYTES
MAX_DATA_BYTES = 1 << 32  # of one entry: 8 MiB per token
MAX_START = 1 << 30
NO_PARENT = bytes(HASH_BYTES)


class BadEntry(Exception):
    """Why a file is of no use."""


class Entry(msgspec.Struct, frozen=True):
    """A header."""

    model: bytes  # HASH_BYTES each
    salt: bytes
    parent: bytes  # NO_PARENT at the beginning of a prompt
    start: int  # position of the first token, or of the state
    tokens: Sequence[int]
    is_canonical: bool
    data_bytes: int = 0
    data_crc: int = 0

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)

    @property
    def header_bytes(self) -> int:
        return FIXED.size + 4 * len(self.tokens) + HASH_BYTES

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + self.data_bytes


def keyed_hash(secret: bytes, *parts: bytes) -> bytes:
    """The hash of parts of fixed sizes, but for the last one."""
    return blake2b(b"".join(parts), digest_size=HASH_BYTES, key=secret).digest()


def name_of(secret: bytes, entry: Entry) -> str:
    """The name of the file for these tokens after this parent."""
    place = struct.pack("<IH", entry.start, entry.is_canonical)
    parts = entry.model, entry.salt, entry.parent, place, _packed(entry.tokens)
    return keyed_hash(secret, *parts).hex()


def header(secret: bytes, entry: Entry) -> bytes:
    fixed = FIXED.pack(
        MAGIC,
        VERSION,
        entry.is_canonical,
        entry.model,
        entry.salt,
        entry.parent,
        entry.data_bytes,
        entry.data_crc,
        entry.start,
        len(entry.tokens),
    )
    body = fixed + _packed(entry.tokens)
    return body + keyed_hash(secret, body)


def parse(secret: bytes, name: str, head: bytes, file_bytes: int) -> Entry:
    """The entry that begins with `head`: the first MAX_HEADER_BYTES, or the whole file.

    Raises BadEntry unless it was written with this secret under this name, and the file has the
    size that it says.
    """
    if len(head) < FIXED.size:
        raise BadEntry("it is too short")
    fields = FIXED.unpack_from(head)
    magic, version, is_canonical, model, salt, parent, data_bytes, crc, start, count = fields
    if (magic, version) != (MAGIC, VERSION):
        raise BadEntry("it has another format")
    if count > MAX_OFFLOADED or start > MAX_START or data_bytes > MAX_DATA_BYTES:
        raise BadEntry("its sizes are impossible")
    end = FIXED.size + 4 * count
    if not hmac.compare_digest(head[end : end + HASH_BYTES], keyed_hash(secret, head[:end])):
        raise BadEntry("its header is damaged, or was written elsewhere")
    tokens = list(struct.unpack(f"<{count}i", head[FIXED.size : end]))
    entry = Entry(model, salt, parent, start, tokens, bool(is_canonical), data_bytes, crc)
    if name != name_of(secret, entry):
        raise BadEntry("it has the name of another one")
    if file_bytes != entry.file_bytes:
        raise BadEntry("it has another size than its header says")
    return entry


def _packed(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}i", *tokens)
