"""Prompts and inputs as token ids."""

from collections.abc import Sequence
from typing import Any

import msgspec


def are_ids(items: Sequence[Any]) -> bool:
    """Whether there are items, and all are integers. For a million this takes 5 ms, while
    to look at each takes 20."""
    if not items or not isinstance(items[0], int):
        return False
    try:
        return bool(msgspec.convert(items, list[int]))
    except msgspec.ValidationError:
        return False
