"""What becomes of models that hang or kill the server: noted, loaded with safer settings, refused.

Deaths are noted by the supervisor (`supervisor.py`), from the marks that models leave here.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from weakref import WeakKeyDictionary

from localinfra.deaths import Safety
from localinfra.errors import Quarantined
from localinfra.journal import CrashJournal, Mark, StepKind, Trouble
from localinfra.kinds import LoadedModel, SensingModel
from localinfra.models import measured
from localinfra.models.entries import ModelEntry
from localinfra.models.histories import deaths, history_of
from localinfra.models.seats import Seat, Seats
from localinfra.models.trials import forget_crashes
from localinfra.watchdog import Pulse, Watchdog

MAX_HANGS = 3  # per model; each leaves a thread behind that may keep its memory and a core


class Safeguard:
    """Of one server's models."""

    def __init__(self) -> None:
        self._journal = CrashJournal()
        # of each model: by what its threads are
        self._watchdogs: WeakKeyDictionary[Seat[LoadedModel], dict[str, Watchdog]] = (
            WeakKeyDictionary()
        )
        self._num_hangs: Counter[str] = Counter()
        self._suspects: set[str] = set()  # models that are not served as they are
        self._restart: Callable[[str], None] | None = None

    def note_in(self, journal: CrashJournal) -> None:
        """There is a supervisor, which reads the journal. Call it before models are loaded."""
        self._journal = journal

    def supervise(self, restart: Callable[[str], None]) -> None:
        """`restart` ends the process for another one to be started; any thread."""
        self._restart = restart

    # --- models that have killed the server; these block for moments ---

    def served(self, name: str, entry: ModelEntry) -> ModelEntry:
        """The entry to load: with safer settings where need be. Raises Quarantined."""
        found = history_of(entry)
        if found.safety is Safety.NORMAL:
            return entry
        self._suspects.add(name)
        if found.safety is Safety.QUARANTINED:
            raise Quarantined(f"{name} is in quarantine. {found.words}", "model")
        return entry.safer

    def forget(self) -> set[str]:
        """Lets all models be tried again as they are, with their projectors. Returns the names of
        those that were not."""
        deaths().forget()
        forget_crashes()
        forgiven, self._suspects = self._suspects, set()
        return forgiven

    # --- what they do now ---

    @contextlib.contextmanager
    def loading(self, name: str, entry: ModelEntry) -> Iterator[Mark]:
        """The mark for a model that is loaded meanwhile, until `released`."""
        mark = self._journal.open(name, measured.identity(entry))
        mark.note(StepKind.LOAD)
        try:
            yield mark
        except BaseException:
            self._journal.close(mark)
            raise
        mark.note(StepKind.IDLE)

    @contextlib.contextmanager
    def releasing(self, model: LoadedModel) -> Iterator[None]:
        """The model is closed meanwhile."""
        if model.worker.is_device_lost:
            self.give_up(model, Trouble.DEVICE_LOST, str(model.worker.fault))
        try:
            yield
        finally:
            self._journal.close(model.worker.mark)

    # --- models that can't go on ---

    def hanging(
        self, seats: Seats[LoadedModel], max_checks: int
    ) -> list[tuple[Seat[LoadedModel], LoadedModel, str, int]]:
        """The models that so many checks in a row have found without progress, or more of them
        while they compute; what of each hangs, and how many. Call it at regular intervals."""
        found = []
        for seat, model in seats.ready():
            dogs = self._watchdogs.setdefault(seat, {})
            for thread, pulse in pulses_of(model).items():
                dog = dogs.setdefault(thread, Watchdog(max_checks))
                if dog.stands_still(pulse):
                    self._num_hangs[seat.name] += 1
                    found.append((seat, model, thread, dog.num_checks))
                    break
        return found

    def hangs_too_often(self, name: str) -> bool:
        return self._num_hangs[name] >= MAX_HANGS

    def abandon(self, model: LoadedModel, reason: str) -> None:
        """Gives up all its threads, also those that go on: they share memory with the one that
        hangs. Event loop only."""
        model.worker.abandon(reason)
        if isinstance(model, SensingModel):
            model.abandon_encoder(reason)

    def give_up(self, model: LoadedModel, trouble: Trouble, reason: str) -> None:
        """Its threads can't be stopped, or its device answers nothing more: only a new process has
        neither. Any thread."""
        if self._restart:
            model.worker.mark.blame(trouble)
            self._restart(reason)


def pulses_of(model: LoadedModel) -> dict[str, Pulse]:
    """By what its threads are."""
    found = {"engine": model.worker.pulse}
    if isinstance(model, SensingModel):
        found["projector"] = model.encoder_pulse
    return found
