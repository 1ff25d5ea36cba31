"""How a request's prompt begins, as hashes: one where each message of a conversation ends.

Two turns of a conversation have all hashes of the first one in common. They are made of what the
client sent, before any template: rendering it would take the model's files and longer than the
request is worth. Pure, any thread.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

Fields = Mapping[str, msgspec.Raw]

MOST_BORDERS = 1024
MOST_BYTES = 4 << 20  # 3 ms
BLOCK_BYTES = 256  # of prompts without messages
# What templates write before the messages.
HEADS = ("tools", "functions", "system", "instructions")
LISTS = ("messages", "input", "prompt")
BEGINS = {"system", "developer"}  # roles of messages before the conversation itself
# Anthropic's clients move these from message to message. Every repetition is bounded: a body of
# nothing but spaces would else take hours, in which nobody is answered.
MOVING = re.compile(rb'"cache_control"\s{0,4}:\s{0,4}\{[^{}]{0,200}\}')
BEFORE_MOVING = re.compile(rb",?\s{0,4}\Z")
MOST_BEFORE = 5  # bytes of that

# A list whose first items are kept and the others skipped: there may be millions.
_FIRST = msgspec.json.Decoder(
    msgspec.defstruct(
        "First",
        [(f"at_{number}", msgspec.Raw, msgspec.Raw()) for number in range(MOST_BORDERS)],
        array_like=True,
    )
)


class _Role(msgspec.Struct):
    role: str = ""


ROLE = msgspec.json.Decoder(_Role)


class PromptStart(NamedTuple):
    borders: tuple[bytes, ...] = ()  # from the shortest beginning to the longest
    # So many borders make it the same conversation, and not only the same instructions.
    own_from: int = 1

    @property
    def origin(self) -> bytes:
        """What stays the same in all turns of a conversation."""
        return self.borders[self.own_from - 1] if len(self.borders) >= self.own_from else b""


def prefix_of(fields: Fields, seed: str) -> PromptStart:
    """Of a body's fields. `seed`: what must be the same for prefixes to be shared."""
    hashed = _Hashed(seed)
    for name in HEADS:
        if name in fields:
            hashed.add(bytes(fields[name]))
    for name in LISTS:
        raw = bytes(fields.get(name, b""))
        if raw.startswith(b'"'):
            return _of_text(hashed, raw)
        if raw.startswith(b"["):
            return _of_messages(hashed, raw)
    return PromptStart()


def _of_messages(hashed: "_Hashed", raw: bytes) -> PromptStart:
    own_from = 0
    with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        for message in msgspec.structs.astuple(_FIRST.decode(raw)):
            sent = bytes(message)
            if not sent or len(sent) > MOST_BYTES or not hashed.add(without_moving(sent)):
                break
            if not own_from and not _is_instruction(message):
                own_from = len(hashed.borders)
    return PromptStart(tuple(hashed.borders), own_from or len(hashed.borders) + 1)


def without_moving(message: bytes) -> bytes:
    """Looks for the name first: nothing else in the message costs more than to skip it."""
    parts, at = [], 0
    for found in MOVING.finditer(message):
        before = message[max(at, found.start() - MOST_BEFORE) : found.start()]
        ends = BEFORE_MOVING.search(before)
        parts.append(message[at : found.start() - len(ends[0] if ends else b"")])
        at = found.end()
    return b"".join([*parts, message[at:]])


def _is_instruction(message: msgspec.Raw) -> bool:
    with contextlib.suppress(msgspec.MsgspecError):
        return ROLE.decode(message).role in BEGINS
    return False


def _of_text(hashed: "_Hashed", raw: bytes) -> PromptStart:
    """Prompts that share less than half may be questions with the same examples before them."""
    for block in _blocks(raw):
        if not hashed.add(block):
            break
    return PromptStart(tuple(hashed.borders), len(hashed.borders) // 2 + 1)


def _blocks(raw: bytes) -> Iterator[bytes]:
    """Whole ones: the last part of a text is another one as soon as it goes on."""
    for start in range(0, len(raw) - BLOCK_BYTES, BLOCK_BYTES):
        yield raw[start : start + BLOCK_BYTES]


class _Hashed:
    def __init__(self, seed: str):
        self._hash = hashlib.blake2b(seed.encode(), digest_size=16)
        self._num_bytes = 0
        self.borders: list[bytes] = []

    def add(self, part: bytes) -> bool:
        """Whether there was room for it."""
        self._num_bytes += len(part)
        if self._num_bytes > MOST_BYTES or len(self.borders) == MOST_BORDERS:
            return False
        self._hash.update(b"%d:" % len(part))  # or parts could be cut otherwise
        self._hash.update(part)
        self.borders.append(self._hash.copy().digest())
        return True
