"""Reasoning in fields that clients keep and send back unread: OpenAI's `encrypted_content` and
Anthropic's `signature`.

Some clients send reasoning back in no other field, and the next prompt should have it. Encoded,
not encrypted: what the model reasoned is no secret from its client.
"""

import base64

from localinfra.api.http.encoded import decode_base64
from localinfra.long_text import decoded
from localinfra.steps import done

MARK = "localinfra:"  # other services' values are ignored


def carried(reasoning: str) -> str:
    encoded = base64.b64encode(reasoning.encode())
    return f"{MARK}{encoded.decode()}" if reasoning else ""


def read_carried(value: str | None) -> str:
    """The reasoning; "" if the value is not ours."""
    if not value or not value.startswith(MARK):
        return ""
    try:
        return done(decoded(decode_base64(value, len(MARK))))
    except ValueError:
        return ""
