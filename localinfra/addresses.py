"""IP addresses as settings, headers and connections give them."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

IpAddress = IPv4Address | IPv6Address

NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


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


def is_public(address: IpAddress) -> bool:
    """Whether it is one of the internet's hosts: not of this machine, a private network, or a
    group, nor an address of IPv6 that some gateway leads to such a one of IPv4."""
    inside: list[IPv4Address] = []
    if isinstance(address, IPv6Address):
        if address in NAT64:
            inside.append(IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour:
            inside.append(address.sixtofour)
        if address.teredo:
            inside += address.teredo
        if address.ipv4_mapped:
            return is_public(address.ipv4_mapped)
    is_own = address.is_global and not address.is_multicast
    return is_own and all(map(is_public, inside))
