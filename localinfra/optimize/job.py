"""The messages between `run` and `worker`, as JSON: a job in, events out."""

import msgspec

from localinfra.llama.settings import ContextSettings
from localinfra.optimize.choose import MeasuredType


class OptimizeJob(msgspec.Struct, frozen=True, kw_only=True):
    source: str  # path of a GGUF file
    settings: ContextSettings  # as for serving
    lossless_only: bool  # measure only what could replace the original, and stop if nothing can
    keep: bool  # save the decision, with the weights if any are better
    is_background: bool = False  # at the lowest priority, with a core to spare where that will do


class Report(msgspec.Struct, frozen=True, kw_only=True):
    original: MeasuredType
    candidates: tuple[MeasuredType, ...] = ()
    reason: str
    winner: str | None = None  # type of the best candidate; None: the original stays
    is_steady: bool = True  # False: other programs disturbed the measurement
    kept: str | None = None  # path of the weights saved for serving


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    fraction: float  # of all the work
    text: str  # what comes next


class Done(msgspec.Struct, frozen=True, tag="done"):
    report: Report


class JobFailed(msgspec.Struct, frozen=True, tag="failed"):
    message: str


Event = Progress | Done | JobFailed
