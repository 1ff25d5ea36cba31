"""What follows for a model that has killed the server, and how a supervisor notes it."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from localinfra import supervisor as supervisor_module
from localinfra.deaths import MOST_FILES, Death, Deaths, Safety, history
from localinfra.journal import CrashJournal, StepKind, Trouble
from localinfra.models.entries import (
    EmbeddingModelEntry,
    EncoderEntry,
    ModelEntry,
    RerankModelEntry,
    TextModelEntry,
)
from localinfra.models.sources import ModelSource, PathSource
from localinfra.supervisor import FAILED, RESTART, WRONG_SETTINGS, Orders, Supervisor

A, B, C = (letter * 32 for letter in "abc")


@pytest.mark.parametrize(
    ("minutes", "safety"),
    [
        ([], Safety.NORMAL),
        ([0], Safety.NORMAL),
        ([0, 11], Safety.NORMAL),
        ([0, 9], Safety.SAFER),
        ([0, 9, 30], Safety.SAFER),
        ([0, 9, 18], Safety.QUARANTINED),
        ([0, 9, 30, 31], Safety.QUARANTINED),
        ([0, 1, 2, 3], Safety.QUARANTINED),
    ],
)
def test_deaths_within_ten_minutes_are_a_step_each(minutes: list[int], safety: Safety) -> None:
    deaths = [Death(60.0 * minute, "while decoding", "died of SIGSEGV") for minute in minutes]
    found = history(deaths)
    assert found.safety is safety and (found.words is None) == (safety is Safety.NORMAL)


def test_files_that_say_nothing_sound_are_no_deaths(tmp_path: Path) -> None:
    deaths = Deaths(tmp_path / "deaths")
    assert deaths.of(A) == [] and not deaths.has_any
    deaths.add(A, "model", Death(1.0, "while loading", "died of SIGBUS"))
    assert deaths.of(A) == [Death(1.0, "while loading", "died of SIGBUS")] and deaths.has_any
    unsound = ("", "{}", '{"deaths": [1]}', '{"deaths": [[1, 2]]}', "[]", "\0", "[" * 100_000)
    for damaged in (*unsound, f'{{"deaths": [[1{"0" * 400}, "", ""]]}}'):
        (deaths.folder / f"{A}.json").write_text(damaged)
        assert deaths.of(A) == []


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    deaths = Deaths(tmp_path)
    for number in range(MOST_FILES + 3):
        deaths.add(f"{number:032x}", "model", Death(1.0, "", ""))
    assert len(list(tmp_path.iterdir())) == MOST_FILES
    deaths.forget()
    assert not deaths.has_any


RISKY = TextModelEntry(
    source=PathSource(Path("a.gguf")),
    gpu_layers=12,
    rpc_servers=("peer:50052",),
    flash_attention=True,
    kv_type="q8_0",
    device_sampling=True,
    prompt_lookup=True,
    draft=ModelSource("small", PathSource(Path("small.gguf"))),
    mmproj=PathSource(Path("mmproj.gguf")),
    optimize="lossless",
)
SAFER = {
    "gpu_layers": 0,
    "rpc_servers": (),
    "flash_attention": False,
    "kv_type": "f16",
    "device_sampling": False,
    "prompt_lookup": False,
    "draft": None,
    "vision": False,
    "optimize": "off",
}


def changes(entry: ModelEntry) -> dict[str, object]:
    """The settings that the safer entry has otherwise."""
    before, after = msgspec.structs.asdict(entry), msgspec.structs.asdict(entry.safer)
    return {name: value for name, value in after.items() if before[name] != value}


def test_a_safer_model_leaves_out_what_may_fail_on_this_machine_and_nothing_else() -> None:
    assert changes(RISKY) == SAFER
    with_mtp = msgspec.structs.replace(RISKY, draft=None, mtp=True)  # never both
    of_both = {name: value for name, value in SAFER.items() if name != "draft"}
    assert changes(with_mtp) == {**of_both, "mtp": False}


def test_a_safer_model_loads_neither_draft_nor_projector(tmp_path: Path) -> None:
    """Not the projector that its settings name, and not the one beside its file."""
    model, mmproj = PathSource(tmp_path / "a.gguf"), PathSource(tmp_path / "mmproj-a.gguf")
    small = PathSource(tmp_path / "small" / "b.gguf")
    small.path.parent.mkdir()
    for source in (model, mmproj, small):
        source.path.write_bytes(b"")
    draft = ModelSource("small", small)
    for named in (mmproj, None):
        entry = TextModelEntry(source=model, draft=draft, mmproj=named)
        assert set(entry.other_files) == {mmproj.path, small.path}
        assert entry.projector == mmproj.path
        assert entry.safer.other_files == () and entry.safer.projector is None
        assert entry.safer.other_sources == ()


@pytest.mark.parametrize("kind", [EmbeddingModelEntry, RerankModelEntry])
def test_a_safer_encoder_runs_on_the_cpu_by_pytorch(kind: type[EncoderEntry]) -> None:
    entry = kind(source=PathSource(Path("a")), device="cuda", backend="onnx")
    assert changes(entry) == {"device": "cpu", "backend": "torch"}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with contextlib.ExitStack() as files:
        shared = [files.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        yield Supervisor(Orders([], [], str(tmp_path), "info", "text"), *shared)


def noted(supervisor: Supervisor) -> list[Death]:
    return supervisor._deaths.of(A)


def at_work(supervisor: Supervisor, trouble: Trouble = Trouble.NONE) -> None:
    supervisor._journal.set_ready()
    mark = supervisor._journal.open("model", A)
    mark.note(StepKind.DECODE)
    mark.blame(trouble)


def preloading(supervisor: Supervisor, identity: str) -> None:
    supervisor._journal.clear()
    CrashJournal.on(supervisor._shared.fileno()).open("model", identity).note(StepKind.LOAD)


def test_a_server_that_never_listens_is_tried_five_times_with_growing_pauses(
    supervisor: Supervisor,
) -> None:
    pauses = [supervisor._after_death(1, is_oom=False) for _ in range(5)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, None]


def test_models_that_kill_it_before_it_listens_are_all_left_out_in_the_end(
    supervisor: Supervisor,
) -> None:
    for identity in (A, B, C):
        for _ in range(3):
            preloading(supervisor, identity)
            assert supervisor._after_death(-signal.SIGSEGV, is_oom=False) == 0.0
        assert history(supervisor._deaths.of(identity)).safety is Safety.QUARANTINED


def test_models_that_can_not_be_noted_are_not_tried_forever(supervisor: Supervisor) -> None:
    supervisor._deaths.folder = Path(os.devnull)
    pauses = []
    for _ in range(5):
        preloading(supervisor, A)
        pauses.append(supervisor._after_death(-signal.SIGSEGV, is_oom=False))
    assert pauses == [1.0, 2.0, 4.0, 8.0, None]


@pytest.mark.parametrize("status", [FAILED, WRONG_SETTINGS])
def test_a_server_that_can_not_start_blames_no_model_that_was_loading(
    supervisor: Supervisor, status: int
) -> None:
    preloading(supervisor, A)
    assert supervisor._after_death(status, is_oom=False) != 0.0
    assert noted(supervisor) == []


def test_wrong_settings_are_not_tried_again(supervisor: Supervisor) -> None:
    assert supervisor._after_death(WRONG_SETTINGS, is_oom=False) is None


def test_a_server_that_dies_often_is_started_less_often(supervisor: Supervisor) -> None:
    supervisor._journal.set_ready()
    pauses = [supervisor._after_death(-signal.SIGKILL, is_oom=False) for _ in range(31)]
    assert pauses == [0.0] * 30 + [supervisor_module.LONG_PAUSE_S]


@pytest.mark.parametrize(
    ("status", "is_oom", "trouble", "cause"),
    [
        (-signal.SIGSEGV, False, Trouble.NONE, "died of SIGSEGV"),
        (-signal.SIGKILL, True, Trouble.NONE, "was killed for lack of memory"),
        (RESTART, False, Trouble.HANGS, "made no step"),
        (RESTART, False, Trouble.DEVICE_LOST, "lost its device"),
        (3, False, Trouble.NONE, "ended with status 3"),
        (-signal.SIGKILL, False, Trouble.NONE, None),
        (-signal.SIGTERM, False, Trouble.NONE, None),
    ],
)
def test_a_death_is_noted_unless_it_came_from_outside(
    supervisor: Supervisor, status: int, is_oom: bool, trouble: Trouble, cause: str | None
) -> None:
    at_work(supervisor, trouble)
    assert supervisor._after_death(status, is_oom) == 0.0
    assert [death.cause for death in noted(supervisor)] == ([cause] if cause else [])
