"""Whether objects outlive their use without a collection of garbage, which would hide it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from waiting import wait_for


@contextmanager
def all_freed(*kinds: type) -> Iterator[None]:
    """Waits after the block until nothing of these kinds, or derived from them, is left that was
    made in it. They must be tracked by the collector, and not be frozen, as what is alive when a
    model's loading ends."""

    def living() -> set[int]:
        return {id(one) for one in gc.get_objects() if issubclass(type(one), kinds)}

    gc.collect()
    gc.disable()
    try:
        before = living()
        yield
        wait_for(lambda: living() <= before, timeout_s=60)
    finally:
        gc.enable()
