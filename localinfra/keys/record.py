"""What is known of a named key: never the key itself, only its hash. Pure, but for the random bits
of a new one."""

import datetime
import secrets
from collections.abc import Collection
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta

PREFIX = "sk-li-"
KEY_BYTES = 32  # random ones in a key: nobody guesses 256 bits, so a plain hash is safe to keep
LABEL_DIGITS = 8
MAX_NUMBER = 10**12

KeyName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$",
        description="up to 64 letters, digits and . _ @ -, the first a letter or digit",
    ),
]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="a SHA-256 in hex digits")]
Count = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]


class KeyLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """None: no limit."""

    rpm: Count | None = None  # requests per minute
    tpm: Count | None = None  # tokens per minute, of prompts and answers
    concurrent: Count | None = None  # requests at the same time

    @property
    def has_any(self) -> bool:
        return (self.rpm, self.tpm, self.concurrent) != (None, None, None)


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A key in the file."""

    name: KeyName
    sha256: Hash
    created: datetime.datetime
    expires: datetime.datetime | None = None
    limits: KeyLimits = KeyLimits()
    models: tuple[str, ...] | None = None  # their names, aliases or ids; None: all
    may_manage: bool = False  # load, unload, pull and delete models, and read /metrics

    @property
    def label(self) -> str:
        return label_of(bytes.fromhex(self.sha256))

    def is_valid(self, now: datetime.datetime) -> bool:
        return self.expires is None or now < self.expires


def label_of(digest: bytes) -> str:
    """How metrics, costs and logs call the holder of a key with this SHA-256."""
    return digest.hex()[:LABEL_DIGITS]


def hash_of(key: bytes) -> bytes:
    return sha256(key).digest()


def make_key(taken: Collection[str] = ()) -> str:
    """A new key, with none of the `taken` labels: what is kept of requests goes by them."""
    while True:
        key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
        if label_of(hash_of(key.encode())) not in taken:
            return key


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
