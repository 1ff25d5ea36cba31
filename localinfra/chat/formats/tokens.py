"""Splits rendered text into marks, words, blanks and signs, and compares such lists. Pure."""

import re
from collections.abc import Sequence
from itertools import accumulate

from localinfra.chat.formats.form import INDEX

# A mark such as <tool_call> or [TOOL_CALLS] is one token; so differences never end inside it.
TOKEN = re.compile(r"<[^<>\n]*>|\[/?[A-Z_]{2,}\]|\d+|[^\W\d_]+|.", re.DOTALL)


def tokens(text: str) -> list[str]:
    return TOKEN.findall(text)


def shared_start(one: str, other: str) -> str:
    """The longest whole tokens that both begin with."""
    pairs = zip(tokens(one), tokens(other), strict=False)
    return one[: sum(len(token) for token in _same(pairs))]


def shared_end(one: str, other: str) -> str:
    """The longest whole tokens that both end with."""
    pairs = zip(reversed(tokens(one)), reversed(tokens(other)), strict=False)
    return one[len(one) - sum(len(token) for token in _same(pairs)) :]


def _same(pairs: "zip[tuple[str, str]]") -> list[str]:
    same = []
    for one, other in pairs:
        if one != other:
            break
        same.append(one)
    return same


def overlap(text: str, following: str) -> str:
    """The longest end of `text`, in whole tokens, that `following` begins with."""
    starts = accumulate(map(len, tokens(text)), initial=0)
    return next(text[at:] for at in starts if following.startswith(text[at:]))


def counted(first: str, second: str) -> tuple[str, str]:
    """Both texts with INDEX for numbers that count up from one to the other; they are aligned at
    their ends."""
    ones, others = tokens(first), tokens(second)
    for at in range(1, min(len(ones), len(others)) + 1):
        one, other = ones[-at], others[-at]
        if one != other and _counts(one, other):
            ones[-at] = others[-at] = INDEX
        elif one != other:
            break
    return "".join(ones), "".join(others)


def _counts(one: str, other: str) -> bool:
    """Python refuses to read numbers of more than 4300 digits."""
    is_count = max(len(one), len(other)) < 10 and one.isdecimal() and other.isdecimal()
    return is_count and int(other) == int(one) + 1


def repeated(none: str, one: str, two: str) -> tuple[str, str, str, str] | None:
    """What stands before a list, an item, what separates two, and what stands after, if these are
    the texts with no, one and two equal items."""
    empty, single, double = tokens(none), tokens(one), tokens(two)
    longest = len(tokens(shared_start(none, one)))
    for size in range(longest, -1, -1):
        head, tail = empty[:size], empty[size:]
        end = len(single) - len(tail)
        if end <= size or single[end:] != tail:
            continue
        item = single[size:end]
        separator = _between(double, head, item, tail)
        if separator is not None:
            return "".join(head), "".join(item), separator, "".join(tail)
    return None


def _between(
    double: Sequence[str], head: Sequence[str], item: Sequence[str], tail: Sequence[str]
) -> str | None:
    start, end = [*head, *item], [*item, *tail]
    size = len(double) - len(start) - len(end)
    if size < 0 or [*double[: len(start)]] != start or [*double[len(double) - len(end) :]] != end:
        return None
    return "".join(double[len(start) : len(double) - len(end)])
