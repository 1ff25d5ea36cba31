"""The keys in a request's headers."""


def offered_keys(authorization: str, x_api_key: str) -> list[str]:
    """The keys that the headers hold; "" stands for a missing header."""
    return [key for key in (bearer(authorization), x_api_key) if key]


def bearer(authorization: str) -> str:
    """The key in `Bearer KEY`, or "". The scheme may be in any case (LangChain sends `bearer`)."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
