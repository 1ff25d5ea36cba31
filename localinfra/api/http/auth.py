"""API keys: whether a request carries a valid one, and whose. Keeps only hashes, logs nothing."""

import hmac
from collections.abc import Iterable
from hashlib import sha256

NO_KEY = "none"  # the name of every caller if the server is open


class ApiKeys:
    """The configured keys. Without any, the server is open."""

    def __init__(self, keys: Iterable[str] = ()):
        self.digests = [sha256(key.encode()).digest() for key in keys]

    def caller(self, authorization: str, x_api_key: str) -> str | None:
        """The name of the key's holder in metrics and costs: the first 8 hex digits of the key's
        SHA-256. None if neither header holds a valid key; "" stands for a missing header.

        Compares with every key in constant time, so timing does not reveal a near miss; all hashes
        have one length, so it does not reveal a key's length either.
        """
        if not self.digests:
            return NO_KEY
        # latin-1 restores the header's bytes. An empty string is never a key, even if configured.
        offered = [key.encode("latin-1") for key in (bearer(authorization), x_api_key) if key]
        hashes = [sha256(key).digest() for key in offered]
        pairs = [(ours, theirs) for ours in self.digests for theirs in hashes]
        matches = [ours for ours, theirs in pairs if hmac.compare_digest(ours, theirs)]
        return matches[0].hex()[:8] if matches else None


def bearer(authorization: str) -> str:
    """The key in `Bearer KEY`, or "". The scheme may be in any case (LangChain sends `bearer`)."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
