"""API keys: which requests carry one of ours. Keeps only their hashes, and logs nothing."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import cast

from starlette.types import Scope


class ApiKeys:
    """The configured keys. With none, the server is open."""

    def __init__(self, keys: Iterable[str] = ()):
        self.digests = [sha256(key.encode()).digest() for key in keys]

    def caller(self, authorization: str, x_api_key: str) -> bytes | None:
        """Whose key either header value holds, as its hash; None if it is none of ours.

        "" stands for a missing header. On an open server all callers are b"".
        Compares with every key in constant time, so the time taken does not tell a near miss;
        hashes are all of one length, so it does not tell a key's length either.
        """
        if not self.digests:
            return b""
        # latin-1 gives back the header's bytes. An empty string is never a key, even if configured.
        offered = [key.encode("latin-1") for key in (bearer(authorization), x_api_key) if key]
        hashes = [sha256(key).digest() for key in offered]
        pairs = [(ours, theirs) for ours in self.digests for theirs in hashes]
        matches = [ours for ours, theirs in pairs if hmac.compare_digest(ours, theirs)]
        return matches[0] if matches else None


def bearer(authorization: str) -> str:
    """The key in `Bearer KEY`, scheme in any case (LangChain's is lower); "" if there is none."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def caller_of(scope: Scope) -> bytes:
    """Whom `Guard` found this request to come from: what one caller stores, no other reads."""
    return cast(bytes, scope["state"]["caller"])
