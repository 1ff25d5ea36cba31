"""`python3 -m localinfra.cli.alive PORT`: whether the server in this container is healthy.

Ends with status 0 or 1. Not a command, as it must start at once, and sends no key: so it need not
know whose certificate it sees.
"""

import http.client
import ssl
import sys

from localinfra.config import settings
from localinfra.errors import ConfigError

LIMIT_S = 4


def is_healthy(port: int, *, by_tls: bool) -> bool:
    """Raises OSError or HTTPException if nothing answers so."""
    if by_tls:
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=LIMIT_S, context=unverified
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def speaks_tls() -> bool:
    """By the settings: options of `serve` may say otherwise."""
    try:
        return settings.load().server.tls_cert is not None
    except ConfigError:
        return False


def main(port: int) -> bool:
    first = speaks_tls()
    for by_tls in (first, not first):
        try:
            if is_healthy(port, by_tls=by_tls):
                return True
        except (OSError, http.client.HTTPException):
            pass
    return False


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1])) else 1)
