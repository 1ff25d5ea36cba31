"""What llama.cpp said of loads, kept so that a start need not listen to it again.

It is heard for three things: how much memory each buffer takes, warnings, and why a load failed.
The first two are the same each time, so a load that went well before goes on in silence; one that
fails in silence is tried again aloud.
"""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from localinfra.footprint import Footprint
from localinfra.llama import log
from localinfra.llama.model import LoadFailed, Model
from localinfra.models import measured

if TYPE_CHECKING:
    from localinfra.llama.context import LlamaContext

MOST_WARNINGS = 100  # kept of a load


class KnownLoad(msgspec.Struct, frozen=True):
    weights: Footprint
    whole: Footprint
    warnings: log.Warnings


known_loads = measured.Records("loads", KnownLoad)


def heard_once(
    name: str, load: Callable[[], tuple["LlamaContext", Model]]
) -> tuple["LlamaContext", Model]:
    """What `load` returns and raises. `name`: of all that its log depends on."""
    log.init_library()  # else the load would, and hear
    known = known_loads.find(name)
    if known:
        with contextlib.suppress(LoadFailed), log.silenced() as is_silent:
            if is_silent:
                context, model = load()
                model.footprint, context.footprint = known.weights, known.whole
                log.say(known.warnings)
                return context, model
    with log.noted() as warnings:
        context, model = load()
    now = KnownLoad(model.footprint, context.footprint, warnings)
    if now != known and len(warnings) <= MOST_WARNINGS:
        known_loads.keep(name, now)
    return context, model
