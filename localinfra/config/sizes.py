"""Sizes in bytes as settings write them: "4GiB", "500 MB"."""

import re
from typing import Annotated

from msgspec import Meta

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

Size = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,9}(\.[0-9]{1,3})? ?[KMGT]i?B$",
        description='a size such as "4GiB" or "500MB"',
    ),
]


def num_bytes(size: Size) -> int:
    """Bytes of a size; GiB and GB both stand for powers of 1024, as memory is counted."""
    found = re.match(r"([0-9.]+) ?([KMGT])", size)
    assert found, "checked by the pattern"
    return int(float(found[1]) * UNITS[found[2]])
