import hmac
from collections.abc import Callable, Sequence
from hashlib import sha256

import pytest

from localinfra.api.http.auth import offered_keys
from localinfra.keys.holders import Holders

PLAIN = ["sk-first", "sk-second", "schlüssel"]


def caller(authorization: str, x_api_key: str, keys: Sequence[str] = PLAIN) -> str | None:
    holders = Holders()
    holders.apply(keys, is_open_allowed=True)
    holder = holders.holder(offered_keys(authorization, x_api_key))
    return holder.label if holder else None


ACCEPTED = [
    ("Bearer sk-first", ""),
    ("Bearer sk-second", ""),
    ("bearer sk-first", ""),
    ("BEARER   sk-first  ", ""),
    ("  Bearer sk-first", ""),
    ("", "sk-second"),
    ("Bearer wrong", "sk-second"),
    ("Basic dXNlcg==", "sk-first"),
    ("Bearer schlüssel".encode().decode("latin-1"), ""),  # as a header's bytes arrive
]

REFUSED = [
    ("", ""),
    ("Bearer", ""),
    ("Bearer ", ""),
    ("Bearer wrong", ""),
    ("Bearer sk-firs", ""),
    ("Bearer sk-firstx", ""),
    ("Bearer SK-FIRST", ""),
    ("Bearer sk-first sk-second", ""),
    ("Bearer sk-first,", ""),
    ("Basic sk-first", ""),
    ("sk-first", ""),
    ("Bearersk-first", ""),
    ("", "Bearer sk-first"),
    ("", "wrong"),
    ("Bearer ÿþ\x80", ""),
]


@pytest.mark.parametrize(("authorization", "x_api_key"), ACCEPTED)
def test_a_configured_key_is_accepted(authorization: str, x_api_key: str) -> None:
    assert caller(authorization, x_api_key)


@pytest.mark.parametrize(("authorization", "x_api_key"), REFUSED)
def test_anything_else_is_refused(authorization: str, x_api_key: str) -> None:
    assert caller(authorization, x_api_key) is None


@pytest.mark.parametrize(("authorization", "x_api_key"), ACCEPTED + REFUSED)
def test_without_keys_the_server_is_open(authorization: str, x_api_key: str) -> None:
    assert caller(authorization, x_api_key, []) == "none"


def test_an_empty_configured_key_opens_nothing() -> None:
    for authorization in ("", "Bearer", "Bearer "):
        assert caller(authorization, "", [""]) is None


def test_a_caller_is_named_by_the_start_of_the_keys_hash() -> None:
    assert caller("Bearer sk-second", "") == sha256(b"sk-second").hexdigest()[:8]
    assert caller("Bearer wrong", "sk-first") == sha256(b"sk-first").hexdigest()[:8]


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def counting(ours: bytes, theirs: bytes) -> bool:
        compared.append(ours)
        return compare(ours, theirs)

    compare: Callable[[bytes, bytes], bool] = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", counting)
    for key in ("sk-first", "sk-second", "wrong"):
        compared.clear()
        caller(f"Bearer {key}", "")
        assert compared == [sha256(key.encode()).digest() for key in PLAIN]


def test_keys_are_kept_as_hashes_only() -> None:
    holders = Holders()
    holders.apply(PLAIN, is_open_allowed=True)
    assert "sk-first" not in repr(vars(holders))
