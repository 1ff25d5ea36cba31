"""The projector with which a text model sees or hears: how it is found, tried, planned and loaded
beside it.

Knows nothing of pictures or of how prompts hold them.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localinfra import machine
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, Footprint, Room
from localinfra.llama.build_info import free_memory
from localinfra.llama.model import LoadFailed, Model
from localinfra.llama.openmp import CAN_LIMIT
from localinfra.llama.projector_trial import TrialFailed, TrialRequest, TrialResult, tried
from localinfra.models import measured
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.hearing import hears, longest_seconds
from localinfra.models.gguf.projector import (
    WITH_WHOLE_LAST,
    kind_of_projector,
    most_at_once,
    working_bytes,
)
from localinfra.models.gguf.reader import BadGguf, GgufHeader, read_projector
from localinfra.models.sources import locate
from localinfra.models.trials import crash_of, note_crash
from localinfra.text.sizing import usual_batch

if TYPE_CHECKING:
    from localinfra.llama.projector import Projector

logger = logging.getLogger(__name__)

trials = measured.Records("projectors", TrialResult)


class ProjectorPlan(msgspec.Struct, frozen=True):
    path: Path
    size_bytes: int
    use_gpu: bool
    trial: TrialResult
    expected: Footprint
    identity: str  # of its file, settings and device
    has_own_words: bool | None = None  # what follows the tiles of a picture
    longest_sound_s: float = 0.0  # 0: it doesn't hear

    @property
    def shape(self) -> object:
        return self.path, self.size_bytes, self.use_gpu


def plan_projector(
    name: str, entry: TextModelEntry, model: GgufHeader, room: Room
) -> ProjectorPlan | None:
    """None if the model has no projector, or one that merely lies beside it and can't be used.

    Raises ModelUnavailable if the one that its entry names is absent or can't be used. Blocks for
    seconds when a projector is seen for the first time, which is then tried.
    """
    if not entry.vision:
        return None
    path = locate(name, entry.mmproj, "mmproj") if entry.mmproj else entry.projector
    if path is None:
        return None
    try:
        header = read_projector(path, model)
        longest_s = longest_seconds(header) if hears(header) else 0.0
        trial = trial_of(entry, path, Path(model.path), longest_s)
        check_batch(header, trial)
    except (BadGguf, TrialFailed) as error:
        problem = str(error) if isinstance(error, BadGguf) else f"{path} {error}"
        if entry.mmproj is None:
            logger.warning("%s does not see: %s", name, problem)
            return None
        raise ModelUnavailable(
            f"{name}: {problem}. Or remove mmproj in models.toml: then it does not see.", "model"
        ) from None
    num_bytes = header.tensor_bytes + working_bytes(header)
    gpus = free_memory() if entry.gpu_layers != 0 else {}
    gpu = next(iter(gpus), None)  # as libmtmd chooses
    use_gpu = gpu is not None and num_bytes <= room.get(gpu, gpus[gpu])
    expected = Footprint({gpu if gpu and use_gpu else CPU: num_bytes})
    own = measured.digest(measured.state_of(path), entry.max_image_tokens, use_gpu)
    tiles = WITH_WHOLE_LAST.get(kind_of_projector(header))
    longest_s = longest_s if trial.hears else 0.0
    return ProjectorPlan(path, header.size_bytes, use_gpu, trial, expected, own, tiles, longest_s)


def trial_of(
    entry: TextModelEntry, path: Path, model: Path, longest_sound_s: float = 0.0
) -> TrialResult:
    """Of this projector with this model and llama.cpp, from an earlier load if there was one.
    Raises TrialFailed, at once if it has crashed before."""
    states = measured.state_of(path), measured.state_of(model)
    facts = (*states, machine.llama_build(), machine.cpu(), entry.max_image_tokens)
    name = measured.digest(facts, longest_sound_s)
    if known := trials.find(name):
        return known
    request = TrialRequest(
        str(model), str(path), threads(entry)[0], entry.max_image_tokens, longest_sound_s
    )
    if crash := crash_of(name, [path, model]):
        raise TrialFailed(f"{crash}; `localinfra reload` has it tried again", is_crash=True)
    try:
        result = tried(request)
    except TrialFailed as error:
        if error.is_crash:
            note_crash(name, [path, model], str(error))
        raise
    trials.keep(name, result)
    return result


def check_batch(header: GgufHeader, trial: TrialResult) -> None:
    """Raises TrialFailed if pictures can need larger steps than are planned for."""
    if not trial.is_causal and trial.most_at_once > most_at_once(header):
        raise TrialFailed(f"makes up to {trial.most_at_once} rows that one step must hold")


def with_pictures(entry: TextModelEntry, planned: ProjectorPlan | None) -> TextModelEntry:
    """The entry with steps that hold any picture whose rows see each other: llama.cpp asserts
    it."""
    most = 0 if planned is None or planned.trial.is_causal else planned.trial.most_at_once
    if most <= usual_batch(entry):
        return entry
    return msgspec.structs.replace(entry, batch_size=most)


def load_projector(
    name: str, entry: TextModelEntry, planned: ProjectorPlan, model: Model
) -> "Projector":
    """Raises ModelUnavailable."""
    from localinfra.llama.projector import Projector, ProjectorSettings

    own, spared = threads(entry)
    settings = ProjectorSettings(
        threads=own,
        spared=spared,
        use_gpu=planned.use_gpu,
        max_tokens=entry.max_image_tokens,
        has_own_words=planned.has_own_words,
        longest_sound_s=planned.longest_sound_s,
    )
    try:
        return Projector(planned.path, model, settings)
    except LoadFailed as error:
        raise ModelUnavailable(
            f"{name}: its projector could not be loaded: {error}. If memory is short, lower "
            "context_length; vision = false in models.toml does without pictures.",
            "model",
        ) from None


def threads(entry: TextModelEntry) -> tuple[int, int]:
    """How many encode, and how many of them don't beside running streams: one, so that these get a
    core of their own."""
    cores = machine.usable_cores()
    if fixed := entry.batch_threads or entry.threads:
        return fixed, 0
    return (cores, 1) if CAN_LIMIT and cores > 1 else (max(1, cores - 1), 0)
