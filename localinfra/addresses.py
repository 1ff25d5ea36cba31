"""IP addresses as settings, headers and connections give them."""

from ipaddress import IPv4Address, IPv6Address, ip_address

IpAddress = IPv4Address | IPv6Address


def parse_ip(text: str) -> IpAddress | None:
    """Parses an IP literal; `::ffff:127.0.0.1` becomes 127.0.0.1, as the socket layer sees it."""
    try:
        address = ip_address(text.partition("%")[0])  # fe80::1%eth0: a zone means nothing to others
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(text: str) -> bool:
    """Whether only this machine can reach the address. Names are left to the caller, who knows
    which ones can't be pointed elsewhere."""
    address = parse_ip(text)
    return address is not None and address.is_loopback
