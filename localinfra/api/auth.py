"""API keys: which requests carry one of ours. Keeps only their hashes, and logs nothing."""

import hmac
from collections.abc import Iterable
from hashlib import sha256


class ApiKeys:
    """The configured keys. With none, the server is open."""

    def __init__(self, keys: Iterable[str] = ()):
        self.digests = [sha256(key.encode()).digest() for key in keys]

    def accept(self, authorization: str, x_api_key: str) -> bool:
        """True if either header value holds a key; "" stands for a missing header.

        Compares with every key in constant time, so the time taken does not tell a near miss;
        hashes are all of one length, so it does not tell a key's length either.
        """
        if not self.digests:
            return True
        # latin-1 gives back the header's bytes. An empty string is never a key, even if configured.
        offered = [key.encode("latin-1") for key in (bearer(authorization), x_api_key) if key]
        hashes = [sha256(key).digest() for key in offered]
        matches = [hmac.compare_digest(ours, theirs) for ours in self.digests for theirs in hashes]
        return any(matches)


def bearer(authorization: str) -> str:
    """The key in `Bearer KEY`, scheme in any case (LangChain's is lower); "" if there is none."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
