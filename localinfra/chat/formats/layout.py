"""Learns how a template lays out JSON: blanks, escapes, the order of names. Pure."""

import re
from collections.abc import Sequence

from localinfra.chat.formats.form import Layout, Order, in_order
from localinfra.chat.messages import Json

# Three names that each order sorts differently, two items, and a character that ASCII lacks.
NAMES = ("kwyj", "KWZJ", "kwxj")
SAMPLE: dict[str, Json] = {"kwyj": [1, 2], "KWZJ": "é", "kwxj": 3}
ORDERS: Sequence[Order] = ("given", "sorted", "caseless")


def layout_of(text: str) -> Layout:
    """`text`: SAMPLE, as the template writes it."""
    comma = re.search(r"1(, ?)2", text)
    colon = re.search(r"kwxj[\"']?(: ?)3", text)
    return Layout(
        comma=comma[1] if comma else Layout().comma,
        colon=colon[1] if colon else Layout().colon,
        is_on_lines="\n" in text,
        is_ascii="é" not in text,
        order=order_in(text),
    )


def order_in(text: str) -> Order:
    """Of the NAMES in it."""
    found = sorted((name for name in NAMES if name in text), key=text.index)
    return next((order for order in ORDERS if in_order(NAMES, order) == found), "given")
