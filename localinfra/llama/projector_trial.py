"""Whether llama.cpp can use a projector: it is tried in a process of its own, since an assertion
that fails ends the process. Run as a program, this module is that process.

Loads the text model's vocabulary only, and computes on the CPU.
"""

import signal
import sys
from pathlib import Path

import msgspec

from localinfra.children import end_with_parent, module_command, result_of
from localinfra.picture_parts import EncodingFailed
from localinfra.pictures import MAX_RATIO, Pixels

COMMAND = module_command("localinfra.llama.projector_trial")
LIMIT_S = 1800.0  # one that hangs; the largest projectors take a minute on slow disks
# Pixels: the smallest, the longest, the highest, usual ones and the largest.
TRIED = ((1, 1), (MAX_RATIO, 1), (1, MAX_RATIO), (640, 480), (1000, 1000), (4096, 4096))
ENCODED = (160, 120)


class TrialFailed(Exception):
    """The projector can't be used; the message says why, after the file's name."""


class TrialRequest(msgspec.Struct, frozen=True):
    model: str
    projector: str
    threads: int
    max_tokens: int | None = None


class TrialResult(msgspec.Struct, frozen=True):
    """What a trial has shown."""

    problem: str = ""
    is_causal: bool = True
    most_at_once: int = 0  # rows of the largest picture or tile


def tried(request: TrialRequest) -> TrialResult:
    """Tries the projector. Blocks for a second, or as long as it takes to load it. Raises
    TrialFailed."""
    command = [*COMMAND, msgspec.json.encode(request).decode()]
    status, out, errors = result_of(command, LIMIT_S)
    try:
        result = msgspec.json.decode(out.strip().rpartition(b"\n")[2], type=TrialResult)
    except msgspec.MsgspecError:
        raise TrialFailed(epitaph(status, errors)) from None
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
    settings = ProjectorSettings(request.threads, max_tokens=request.max_tokens)
    try:
        projector = Projector(Path(request.projector), model, settings)
        if not projector.sees:
            return TrialResult("it has no eyes")
        sizes = [part for size in TRIED for part in projector.sizes(*size)]
        noise = bytes(at * 7919 % 251 for at in range(ENCODED[0] * ENCODED[1] * 3))
        projector.read(Pixels(*ENCODED, noise), lambda: None)
    except (LoadFailed, EncodingFailed) as error:
        return TrialResult(str(error))
    most = max(part.num_tokens for part in sizes if part.is_rows)
    return TrialResult("", projector.is_causal, most)


if __name__ == "__main__":
    main()
