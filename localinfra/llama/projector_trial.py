"""Whether llama.cpp can use a projector: it is tried in a process of its own, since an assertion
that fails ends the process. Run as a program, this module is that process.

Loads the text model's vocabulary only, and computes on the CPU.
"""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localinfra.children import end_with_parent, module_command, result_of
from localinfra.picture_parts import EncodingFailed
from localinfra.pictures import MAX_RATIO, Pixels

if TYPE_CHECKING:
    from localinfra.llama.projector import Projector
    from localinfra.sounds.samples import Samples

COMMAND = module_command("localinfra.llama.projector_trial")
LIMIT_S = 1800.0  # one that hangs; the largest projectors take a minute on slow disks
FROM_OUTSIDE = (-9, -15, -2, -1)  # signals of people, supervisors, and for lack of memory
# Pixels: the smallest, the longest, the highest, usual ones and the largest.
TRIED = ((1, 1), (MAX_RATIO, 1), (1, MAX_RATIO), (640, 480), (1000, 1000), (4096, 4096))
ENCODED = (160, 120)
# Of silence; encoders that take no more than the second read a sound in one piece, and how much
# memory that takes depends on its length.
HEARD_S, WHOLE_S = 1.0, 60.0
MEASURED_S = (0.001, 29.99, 30.001, 61.7)  # around the pieces that encoders cut sounds into


class TrialFailed(Exception):
    """The projector can't be used; the message says why, after the file's name."""

    def __init__(self, message: str, *, is_crash: bool = False):
        """`is_crash`: it would happen again."""
        super().__init__(message)
        self.is_crash = is_crash


class TrialRequest(msgspec.Struct, frozen=True):
    model: str
    projector: str
    threads: int
    max_tokens: int | None = None
    longest_sound_s: float = 0.0  # 0: it is not to hear


class TrialResult(msgspec.Struct, frozen=True):
    """What a trial has shown."""

    problem: str = ""
    is_causal: bool = True
    most_at_once: int = 0  # rows of the largest picture or tile
    sees: bool = True
    hears: bool = False


def tried(request: TrialRequest) -> TrialResult:
    """Tries the projector. Blocks for a second, or as long as it takes to load it. Raises
    TrialFailed."""
    command = [*COMMAND, msgspec.json.encode(request).decode()]
    ended = result_of(command, LIMIT_S)
    try:
        result = msgspec.json.decode(ended.out.strip().rpartition(b"\n")[2], type=TrialResult)
    except msgspec.MsgspecError:
        if ended.hung:
            raise TrialFailed(f"makes llama.cpp hang, {LIMIT_S:g} s long", is_crash=True) from None
        is_own = ended.status not in FROM_OUTSIDE
        raise TrialFailed(epitaph(ended.status, ended.errors), is_crash=is_own) from None
    if result.problem:
        raise TrialFailed(f"can't be used: {result.problem}")
    return result


def epitaph(status: int, errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    said = next((line for line in lines if "GGML_ASSERT" in line), lines[-1] if lines else "")
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"makes llama.cpp crash ({how}{': ' if said else ''}{said[-200:]})"


def main() -> None:
    end_with_parent()
    request = msgspec.json.decode(sys.argv[1].encode(), type=TrialRequest)
    print(msgspec.json.encode(trial(request)).decode(), flush=True)


def trial(request: TrialRequest) -> TrialResult:
    from localinfra.llama.model import LoadFailed, Model, ModelSettings
    from localinfra.llama.projector import Projector, ProjectorSettings

    model = Model(Path(request.model), ModelSettings(vocabulary_only=True))
    settings = ProjectorSettings(
        request.threads, max_tokens=request.max_tokens, longest_sound_s=request.longest_sound_s
    )
    try:
        projector = Projector(Path(request.projector), model, settings)
        if not projector.sees and not projector.sample_rate:
            return TrialResult("it has neither eyes nor ears")
        most = most_seen(projector) if projector.sees else 0
        if projector.sample_rate:
            hear(projector)
    except (LoadFailed, EncodingFailed) as error:
        return TrialResult(str(error))
    hears = projector.sample_rate > 0
    return TrialResult("", projector.is_causal, most, projector.sees, hears)


def most_seen(projector: "Projector") -> int:
    """The rows of its largest picture or tile."""
    sizes = [part for size in TRIED for part in projector.sizes(Pixels(*size, b""))]
    noise = bytes(at * 7919 % 251 for at in range(ENCODED[0] * ENCODED[1] * 3))
    projector.read(Pixels(*ENCODED, noise), lambda: None)
    return max(part.num_tokens for part in sizes if part.is_rows)


def hear(projector: "Projector") -> None:
    rate, longest_s = projector.sample_rate, projector.longest_sound_s
    for seconds in MEASURED_S:
        if seconds <= longest_s:
            projector.sizes(silence(rate, seconds))
    projector.read(silence(rate, longest_s if longest_s <= WHOLE_S else HEARD_S), lambda: None)


def silence(rate: int, seconds: float) -> "Samples":
    import numpy as np

    from localinfra.sounds.samples import Samples

    return Samples(np.zeros(max(1, round(rate * seconds)), np.float32), rate)


if __name__ == "__main__":
    main()
