"""Where requests go: to their cache, unless it is out of balance; else to the least load."""

import contextlib
import random

import pytest

from localinfra.scale.placement import SLACK, ReplicaChoice
from localinfra.scale.prefixes import PromptStart

NAMES = ("a", "b", "c", "d")


def conversation(number: int, turns: int, system: bool = True) -> PromptStart:
    """`turns` messages of a conversation; all have the same instructions before them."""
    own = tuple(f"{number}.{turn}".encode() for turn in range(turns))
    return PromptStart((b"system", *own), 2) if system else PromptStart(own, 1)


def idle(*names: str) -> dict[str, int]:
    return dict.fromkeys(names or NAMES, 0)


def ran(placement: ReplicaChoice, name: str, prefix: PromptStart) -> None:
    with placement.running(name, prefix):
        pass


@pytest.mark.parametrize("seed", range(5))
def test_conversations_return_to_their_replica_under_load(seed: int) -> None:
    """40 conversations of ten turns, up to 12 at once on four replicas."""
    placement, chance = ReplicaChoice(), random.Random(seed)
    last: dict[int, str] = {}
    running: list[contextlib.ExitStack] = []
    returned = turns = 0
    for turn in range(1, 11):
        for number in chance.sample(range(40), 40):
            prefix = conversation(number, 2 * turn - 1)
            name = placement.choose(prefix, idle())
            assert name
            if number in last:
                turns += 1
                returned += name == last[number]
            last[number] = name
            stack = contextlib.ExitStack()
            stack.enter_context(placement.running(name, prefix))
            running.append(stack)
            if len(running) == 12:
                running.pop(chance.randrange(12)).close()
    assert returned >= 0.95 * turns
    assert set(last.values()) == set(NAMES)


def test_new_conversations_with_the_same_instructions_are_spread() -> None:
    placement = ReplicaChoice()
    with contextlib.ExitStack() as running:
        names = []
        for number in range(8):
            prefix = conversation(number, 1)
            name = placement.choose(prefix, idle())
            assert name
            running.enter_context(placement.running(name, prefix))
            names.append(name)
    assert sorted(names) == sorted(NAMES * 2)


def test_among_equals_who_knows_the_instructions_is_first() -> None:
    for name in NAMES:
        placement = ReplicaChoice()
        ran(placement, name, conversation(1, 1))
        assert placement.choose(conversation(2, 1), idle()) == name


def test_a_conversation_leaves_a_replica_that_has_far_more_to_do() -> None:
    placement = ReplicaChoice()
    ran(placement, "a", conversation(1, 1))
    assert placement.choose(conversation(1, 3), {"a": SLACK, "b": 0}) == "a"
    assert placement.choose(conversation(1, 3), {"a": SLACK + 1, "b": 0}) == "b"
    assert placement.choose(conversation(1, 3), {"a": SLACK + 2, "b": 1}) == "a"
    ran(placement, "b", conversation(1, 3))  # now both have it
    assert placement.choose(conversation(1, 5), {"a": 3, "b": 1}) == "b"


def test_replicas_that_are_gone_or_have_failed_are_not_chosen() -> None:
    placement = ReplicaChoice()
    ran(placement, "a", conversation(1, 1))
    assert placement.choose(conversation(1, 3), idle("b", "c")) in ("b", "c")
    assert placement.choose(conversation(1, 3), idle("a", "b"), ["a"]) == "b"
    assert placement.choose(conversation(1, 3), {}) is None
    assert placement.choose(conversation(1, 3), idle("a"), ["a"]) is None


def test_gateways_that_know_nothing_of_each_other_agree() -> None:
    for number in range(50):
        first = ReplicaChoice().choose(conversation(number, 1), idle())
        assert ReplicaChoice().choose(conversation(number, 5), idle()) == first


def test_another_replica_moves_few_conversations() -> None:
    moved = 0
    for number in range(400):
        prefix = conversation(number, 1)
        four, five = (
            ReplicaChoice().choose(prefix, idle()),
            ReplicaChoice().choose(prefix, idle(*NAMES, "e")),
        )
        moved += four != five
        assert five in (four, "e")
    assert moved < 400 / 5 * 1.5


def test_what_others_report_counts_too() -> None:
    assert ReplicaChoice().choose(PromptStart(), {"a": 3, "b": 1, "c": 2}) == "b"


def test_requests_without_a_prefix_are_spread() -> None:
    placement = ReplicaChoice()
    assert {placement.choose(PromptStart(), idle()) for _ in range(40)} == set(NAMES)


def test_old_prefixes_are_forgotten_first() -> None:
    placement = ReplicaChoice(most_borders=3)
    ran(placement, "a", conversation(1, 3, system=False))
    ran(placement, "b", conversation(2, 3, system=False))
    assert placement.choose(conversation(2, 4, system=False), idle()) == "b"
    assert placement._deepest(conversation(1, 3, system=False), NAMES) == (0, [])
