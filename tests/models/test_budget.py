"""What all models together may take, and what is said when one does not fit."""

import sys
from pathlib import Path

import msgspec
import pytest

from localinfra import machine
from localinfra.config.settings import ServerSettings
from localinfra.config.sizes import num_bytes
from localinfra.footprint import CPU, GIB, MIB, NO_MEMORY, Footprint
from localinfra.models import measured
from localinfra.models.budget import GPU_RESERVE_BYTES, HOST_RESERVE_BYTES, Budget, too_large
from localinfra.models.entries import TextModelEntry
from localinfra.models.measured import LoadMeter
from localinfra.models.seats import LoadPlan, Pending, Seat, Seats
from localinfra.models.sources import PathSource
from localinfra.models.swaps import ResidentState

GPU = "cuda:0"


def test_auto_is_what_is_free_and_what_models_hold_less_a_reserve() -> None:
    budget = Budget(None, lambda: {CPU: 8 * GIB, GPU: 4 * GIB})
    empty = {CPU: 8 * GIB - HOST_RESERVE_BYTES, GPU: 4 * GIB - GPU_RESERVE_BYTES}
    assert budget.room(NO_MEMORY) == empty
    # 5 GiB of 6 are pages of a file, which the system counts as available.
    held = Footprint({CPU: 6 * GIB, GPU: GIB}, mapped=5 * GIB)
    assert budget.room(held) == {CPU: empty[CPU] + GIB, GPU: empty[GPU] + GIB}


def test_auto_is_nothing_where_others_have_taken_the_reserve() -> None:
    assert Budget(None, lambda: {CPU: 100 * MIB}).room(NO_MEMORY) == {CPU: 0}
    assert Budget(None, dict).room(NO_MEMORY) == {}  # a system that does not say: no limit


def test_memory_that_is_only_taken_to_compute_is_kept_but_not_held() -> None:
    plan = LoadPlan(Footprint({GPU: 10}), working=Footprint({GPU: 3}))
    assert plan.takes == Footprint({GPU: 13})
    seat: Seat[str] = Seat(name="flux", takes=plan.takes, pending=Pending("flux"), model="flux")
    seat.pending.plan, seat.state = plan, ResidentState.LOADED
    assert Seats([seat]).held == Footprint({GPU: 10})


def test_a_size_limits_each_device() -> None:
    budget = Budget(12 * GIB, lambda: {GPU: 80 * GIB})
    assert budget.room(Footprint({CPU: GIB})) == {CPU: 12 * GIB, GPU: 12 * GIB}


@pytest.mark.parametrize(("size", "expected"), [("12GiB", 12 * GIB), ("1.5 GB", 1.5 * GIB)])
def test_sizes_are_written_as_people_write_them(size: str, expected: int) -> None:
    settings = msgspec.convert({"memory_budget": size}, ServerSettings)
    assert num_bytes(settings.memory_budget) == expected


@pytest.mark.parametrize("size", ["lots", "12", "-1GiB", "auto "])
def test_other_words_for_a_budget_are_refused(size: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"memory_budget": size}, ServerSettings)


def test_the_error_says_what_is_needed_and_there() -> None:
    takes = Footprint({CPU: GIB, GPU: 40 * GIB})
    error = too_large("large", takes, {CPU: 8 * GIB, GPU: 23 * GIB})
    assert error.status == 503 and error.message.startswith(
        "large needs 40.0 GiB of cuda:0, where the budget has 23.0 GiB. Use a smaller file"
    )
    assert "memory_budget" in error.message and "context_length" in error.message


def test_the_limit_of_a_control_group_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    free = machine.available_memory()
    assert free is not None and free > 1
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200000\nactive_file 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine.available_memory() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory() != 400_000


def test_measured_figures_are_kept_for_the_same_file_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "m.gguf"
    file.write_bytes(b"weights")
    entry = TextModelEntry(source=PathSource(file))
    name = measured.identity(entry, 4096)
    assert measured.footprints.find(name) is None
    measured.footprints.keep(name, Footprint({CPU: 7}, 3))
    assert measured.footprints.find(measured.identity(entry, 4096)) == Footprint({CPU: 7}, 3)
    assert measured.footprints.find(measured.identity(entry, 8192)) is None
    file.write_bytes(b"other weights")
    assert measured.footprints.find(measured.identity(entry, 4096)) is None
    seen = measured.identity(entry)
    (tmp_path / "mmproj-m.gguf").write_bytes(b"a projector beside it")
    assert measured.identity(entry) != seen  # deaths of the two together are none of the one alone
    measured.footprints.place(name).write_text("damaged")
    assert measured.footprints.find(name) is None


def test_growth_is_a_models_unless_it_could_be_anothers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = {CPU: 100 * MIB}
    meter = LoadMeter(lambda: Footprint(dict(held)))
    expected = Footprint({CPU: 90 * MIB})
    with meter.load() as alone:
        held[CPU] += 150 * MIB
    assert alone.grown(expected) == Footprint({CPU: 150 * MIB})
    with meter.load() as first, meter.load() as second:
        held[CPU] += 150 * MIB
    assert first.grown(expected) is None and second.grown(expected) is None
    with meter.load() as importing:
        held[CPU] += 150 * MIB
        for number in range(measured.MANY_MODULES):
            monkeypatch.setitem(sys.modules, f"library.module{number}", machine)
    assert importing.grown(expected) is None
    for growth in (10, 5000):  # most of it was there before, or much else was allocated
        with meter.load() as odd:
            held[CPU] += growth * MIB
        assert odd.grown(expected) is None
