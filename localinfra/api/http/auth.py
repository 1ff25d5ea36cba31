"""API keys: which requests carry one of ours, and whose. Keeps only hashes, and logs nothing."""

import hmac
from collections.abc import Iterable
from hashlib import sha256

NO_KEY = "none"  # what callers of an open server are called


class ApiKeys:
    """The configured keys. With none, the server is open."""

    def __init__(self, keys: Iterable[str] = ()):
        self.digests = [sha256(key.encode()).digest() for key in keys]

    def caller(self, authorization: str, x_api_key: str) -> str | None:
        """What the holder of the key in either header is called in metrics and costs: the first 8
        hex digits of the key's SHA-256. None without a key of ours; "" is a missing header.

        Compares with every key in constant time, so the time taken does not tell a near miss;
        hashes are all of one length, so it does not tell a key's length either.
        """
        if not self.digests:
            return NO_KEY
        # latin-1 gives back the header's bytes. An empty string is never a key, even if configured.
        offered = [key.encode("latin-1") for key in (bearer(authorization), x_api_key) if key]
        hashes = [sha256(key).digest() for key in offered]
        pairs = [(ours, theirs) for ours in self.digests for theirs in hashes]
        matches = [ours for ours, theirs in pairs if hmac.compare_digest(ours, theirs)]
        return matches[0].hex()[:8] if matches else None


def bearer(authorization: str) -> str:
    """The key in `Bearer KEY`, scheme in any case (LangChain's is lower); "" if there is none."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
