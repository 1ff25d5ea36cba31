"""What the pool must know to share memory among models; by default there is no limit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from localinfra.footprint import NO_MEMORY, Footprint, Room
from localinfra.models.seats import LoadPlan

T = TypeVar("T")


def no_plan(name: str, held: Footprint) -> LoadPlan:
    return LoadPlan()


def nothing(model: object) -> Footprint:
    return NO_MEMORY


def no_limit(held: Footprint) -> Room:
    return {}


def never(name: str) -> bool:
    return False


def told(takes: Mapping[str, Footprint]) -> None:
    """For pools of which nobody needs to know."""


def stays(model: object) -> None:
    """For models that can't be moved."""


@dataclass(frozen=True, kw_only=True)
class Sharing(Generic[T]):
    """`plan`, `park` and `wake` block: they run in threads."""

    plan: Callable[[str, Footprint], LoadPlan] = no_plan  # from what the loaded models take
    takes: Callable[[T], Footprint] = nothing  # of a loaded model, as measured
    room: Callable[[Footprint], Room] = no_limit  # for all models, from what the loaded ones take
    is_pinned: Callable[[str], bool] = never  # it is never unloaded for another
    parked: Callable[[T], Footprint | None] = stays  # once in main memory; None: it can't be moved
    park: Callable[[T], None] = stays  # moves it to main memory
    wake: Callable[[T], None] = stays  # moves it back
    # told after every change what each model takes, those included that are being loaded or moved
    changed: Callable[[Mapping[str, Footprint]], None] = told
    patience_s: Callable[[], float] = lambda: 10.0  # then a busy model is unloaded for another
