"""Caches of limited size that many clients use: nobody pushes out what others have."""

from localinfra.shares import Kept


def test_one_client_has_all_the_room_and_loses_what_it_used_longest_ago() -> None:
    kept: Kept[int, str] = Kept(4)
    for number in range(4):
        kept.put("a", number, str(number), 1)
    assert len(kept) == 4 and kept.get("a", 0) == "0"
    kept.put("a", 4, "4", 1)
    assert [kept.get("a", number) for number in range(5)] == ["0", None, "2", "3", "4"]


def test_a_flood_of_one_client_leaves_what_others_have() -> None:
    kept: Kept[int, str] = Kept(8)
    for number in range(3):
        kept.put("modest", number, "its own", 1)
    for number in range(100):
        kept.put("greedy", number, "new", 1)
        assert kept.get("greedy", number) == "new"
    assert [kept.get("modest", number) for number in range(3)] == ["its own"] * 3
    assert len(kept) == 8 and kept.get("greedy", 3) is None


def test_who_comes_later_gets_room_from_who_has_most() -> None:
    kept: Kept[int, str] = Kept(8)
    for client in ("alone", "second", "third"):
        for number in range(8):
            kept.put(client, number, "new", 1)
    counts = [sum(client == owner for owner, _, _ in kept.items()) for client in ("alone", "third")]
    assert len(kept) == 8 and min(counts) >= 2


def test_each_limit_drops_from_who_has_most_of_it() -> None:
    kept: Kept[str, str] = Kept(5, 100)  # values, and their bytes
    kept.put("large", "one", "", 1, 60)
    for name in ("one", "two", "three"):
        kept.put("small", name, "", 1, 1)
    kept.put("large", "two", "", 1, 60)  # too large: of its own
    assert kept.get("large", "one") is None and len(kept) == 4
    kept.put("small", "four", "", 1, 1)
    kept.put("small", "five", "", 1, 1)  # too many: of its own
    assert kept.get("large", "two") is not None and kept.get("small", "one") is None


def test_what_is_larger_than_all_costs_nobody_else_anything() -> None:
    kept: Kept[str, str] = Kept(10)
    kept.put("modest", "one", "", 2)
    kept.put("greedy", "one", "", 2)
    kept.put("greedy", "huge", "", 50)
    assert kept.get("greedy", "huge") is not None and kept.get("greedy", "one") is None
    kept.put("modest", "two", "", 2)
    assert kept.get("greedy", "huge") is None and len(kept) == 2


def test_values_may_come_again_grow_and_leave() -> None:
    kept: Kept[str, int] = Kept(10)
    for value in range(20):
        kept.put("a", "same", value, 6)
    assert kept.get("a", "same") == 19
    kept.put("a", "other", 0, 4)
    kept.resize("a", "other", 5)
    assert len(kept) == 2
    kept.put("a", "third", 0, 1)
    assert kept.get("a", "same") is None and kept.get("a", "other") == 0
    kept.drop("a", "other")
    kept.drop("b", "never was there")
    assert kept.items() == [("a", "third", 0)]
    kept.clear()
    kept.put("a", "all", 1, 10)
    assert kept.items() == [("a", "all", 1)]
