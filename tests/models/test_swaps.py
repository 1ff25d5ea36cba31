"""Which models are loaded, and which are unloaded for them: one decision at a time."""

from typing import Any

from localinfra.footprint import CPU, Footprint
from localinfra.models.swaps import Demand, Moves, Resident, ResidentState, decide

GPU = "cuda:0"
PATIENCE_S = 10.0


def takes(cpu: int, gpu: int = 0) -> Footprint:
    return Footprint({CPU: cpu, GPU: gpu} if gpu else {CPU: cpu})


def loaded(
    name: str, size: int | Footprint, *, used_at: float = 0, leases: int = 0, pinned: bool = False
) -> Resident:
    footprint = takes(size) if isinstance(size, int) else size
    return Resident(
        name, footprint, ResidentState.LOADED, pinned, leases, loaded_at=0, used_at=used_at
    )


def moves(
    room: int | dict[str, int],
    residents: list[Resident],
    *demands: Demand,
    now: float = 0,
) -> Moves[Resident, Demand]:
    rooms = {CPU: room} if isinstance(room, int) else room
    return decide(residents, demands, rooms, now, PATIENCE_S)


def names(found: list[Any]) -> list[str]:
    return [one.name for one in found]


def test_free_memory_is_used_first() -> None:
    done = moves(6, [loaded("a", 3)], Demand("b", 0, takes(3)))
    assert names(done.load) == ["b"] and not done.unload


def test_the_least_recently_used_idle_model_makes_room() -> None:
    residents = [loaded("a", 3, used_at=2), loaded("b", 3, used_at=1), loaded("c", 3, leases=1)]
    done = moves(9, residents, Demand("d", 5, takes(3)), now=5)
    assert names(done.unload) == ["b"] and not done.load and not done.closed


def test_no_model_is_unloaded_in_vain() -> None:
    small_and_old, large = loaded("a", 1, used_at=1), loaded("b", 5, used_at=2)
    done = moves(6, [small_and_old, large], Demand("c", 5, takes(5)), now=5)
    assert names(done.unload) == ["b"]
    busy = loaded("d", 4, leases=1)
    assert moves(5, [small_and_old, busy], Demand("c", 5, takes(4)), now=5) == Moves()


def test_models_on_another_device_stay() -> None:
    residents = [loaded("text", takes(1, 5), used_at=2), loaded("vectors", 3, used_at=1)]
    done = moves({CPU: 9, GPU: 6}, residents, Demand("flux", 3, takes(1, 4)), now=3)
    assert names(done.unload) == ["text"]


def test_a_busy_model_is_closed_once_the_swap_has_waited_long_enough() -> None:
    busy = loaded("a", 3, leases=2)
    demand = Demand("b", 5, takes(3))
    assert not moves(4, [busy], demand, now=14.9).closed
    assert moves(4, [busy], demand, now=15).closed == [busy]
    busy.loaded_at = 8  # it has a turn as long
    assert not moves(4, [busy], demand, now=15).closed
    assert moves(4, [busy], demand, now=18).closed == [busy]


def test_a_closed_model_opens_again_where_the_swap_is_no_longer_wanted() -> None:
    busy = loaded("a", 3, leases=1)
    busy.is_closed = True
    assert not moves(4, [busy], now=20).closed
    assert moves(4, [busy], Demand("b", 0, takes(3)), now=20).closed == [busy]
    busy.num_leases = 0
    assert moves(4, [busy], Demand("b", 0, takes(3)), now=20).unload == [busy]


def test_a_pinned_model_stays_and_what_it_takes_is_not_there_for_others() -> None:
    pinned = loaded("a", 3, pinned=True)
    done = moves(5, [pinned], Demand("b", 0, takes(3)), now=100)
    assert names(done.refused) == ["b"] and not done.unload and not done.closed


def test_what_does_not_fit_alone_is_refused_but_not_while_memory_is_in_motion() -> None:
    assert names(moves(4, [], Demand("a", 0, takes(5))).refused) == ["a"]
    loading = Resident("b", takes(1))
    assert moves(4, [loading], Demand("a", 0, takes(5))) == Moves()


def test_memory_that_a_model_waits_for_is_kept_for_it() -> None:
    leaving = loaded("a", 4)
    leaving.state = ResidentState.UNLOADING
    first, second = Demand("b", 1, takes(4)), Demand("c", 2, takes(2))
    assert moves(5, [leaving], first, second, now=2) == Moves()
    assert names(moves(7, [leaving], first, second, now=2).load) == ["c"]


def test_an_overdue_model_is_not_overtaken_on_its_device() -> None:
    busy = loaded("a", takes(1, 4), leases=1)
    busy.loaded_at = 99
    overdue = Demand("b", 80, takes(1, 5))
    on_gpu, on_cpu = Demand("c", 90, takes(1, 1)), Demand("d", 90, takes(1))
    room = {CPU: 9, GPU: 6}
    assert names(moves(room, [busy], overdue, on_gpu, on_cpu, now=89).load) == ["c", "d"]
    assert names(moves(room, [busy], overdue, on_gpu, on_cpu, now=100).load) == ["d"]


def test_a_model_measured_at_more_than_expected_costs_idle_ones_their_place() -> None:
    residents = [loaded("a", 3, used_at=1), loaded("b", 3, used_at=2), loaded("c", 4, leases=1)]
    assert names(moves(8, residents).unload) == ["a"]
    assert names(moves(10, residents).unload) == []


def movable(name: str, *, used_at: float = 0, leases: int = 0, cpu: int = 1) -> Resident:
    """Takes 4 of the GPU, or as much of main memory once it is moved there."""
    resident = loaded(name, takes(cpu, 4), used_at=used_at, leases=leases)
    resident.parked = takes(cpu + 4)
    return resident


def test_a_model_that_can_be_moved_is_moved_before_an_older_one_is_unloaded() -> None:
    flux, text = movable("flux", used_at=9), loaded("text", takes(1, 4), used_at=1)
    demand = Demand("other", 10, takes(1, 4))
    done = moves({CPU: 20, GPU: 8}, [flux, text], demand, now=10)
    assert names(done.park) == ["flux"] and not done.unload and not done.load
    flux.state = ResidentState.PARKING
    assert moves({CPU: 20, GPU: 8}, [flux, text], demand, now=10) == Moves()
    flux.state, flux.is_parked, flux.takes = ResidentState.LOADED, True, takes(5)
    assert moves({CPU: 20, GPU: 8}, [flux, text], demand, now=10).load == [demand]


def test_without_main_memory_for_it_the_oldest_is_unloaded() -> None:
    flux, text = movable("flux", used_at=9), loaded("text", takes(1, 4), used_at=1)
    done = moves({CPU: 5, GPU: 8}, [flux, text], Demand("other", 10, takes(1, 4)), now=10)
    assert names(done.unload) == ["text"] and not done.park


def test_a_moved_model_is_woken_in_place_of_others() -> None:
    flux = movable("flux")
    flux.is_parked, flux.takes = True, takes(5)
    text = loaded("text", takes(1, 6), leases=1)
    demand = Demand("flux", 20, takes(1, 4))
    assert moves({CPU: 9, GPU: 12}, [flux, text], demand, now=20).wake == [demand]
    assert moves({CPU: 9, GPU: 8}, [flux, text], demand, now=21) == Moves()
    text.num_leases = 0
    assert moves({CPU: 9, GPU: 8}, [flux, text], demand, now=21).unload == [text]


def test_a_moved_model_is_unloaded_where_main_memory_is_short() -> None:
    flux = movable("flux")
    flux.is_parked, flux.takes = True, takes(5)
    done = moves({CPU: 8, GPU: 8}, [flux], Demand("vectors", 1, takes(4)), now=1)
    assert done.unload == [flux] and not done.park
