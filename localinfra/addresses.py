"""IP addresses as they are written in settings and headers, and as connections tell them."""

from ipaddress import IPv4Address, IPv6Address, ip_address

IpAddress = IPv4Address | IPv6Address


def parse_ip(text: str) -> IpAddress | None:
    """Reads an IP literal; `::ffff:127.0.0.1` is 127.0.0.1, as the socket layer sees it."""
    try:
        address = ip_address(text.partition("%")[0])  # fe80::1%eth0: the zone is its reader's own
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(text: str) -> bool:
    """Whether it is an address that only this machine reaches. Of names each caller knows which
    ones can't be pointed elsewhere."""
    address = parse_ip(text)
    return address is not None and address.is_loopback
