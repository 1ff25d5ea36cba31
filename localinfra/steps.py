"""Work that may be interrupted where it yields: the event loop has others run between the steps
(`executor.in_turns`), threads do it in one go. Pure."""

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]


def done(steps: Steps[T]) -> T:
    """The result of all steps, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
