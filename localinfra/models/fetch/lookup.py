"""What a host's name stands for, and whether that is on the public internet. Blocking.

Who connects does so to the addresses that were judged: a moment later, the name may stand for
others.
"""

import ipaddress
import socket

from localinfra.addresses import is_public, parse_ip

INVENTED = ipaddress.ip_network("198.18.0.0/15")  # proxies that route by name answer with these


def addresses_of(host: str, port: int) -> list[str]:
    """Raises OSError, and UnicodeError for a name that nobody can have."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def is_private(text: str) -> bool:
    """Whether an address is not one of the public internet, nor stands for such a one."""
    address = parse_ip(text)
    return address is None or not (is_public(address) or address in INVENTED)
