"""With how many threads steps begin after a rest, by the cores that are idle."""

from idling import ToldCores

from localinfra.engine.policy.step_times import StepTimes
from localinfra.engine.policy.threads import ThreadController, rungs


def test_after_a_rest_other_work_that_has_just_ended_does_not_count() -> None:
    now, idle_now = 0.0, 16.0
    controller = ThreadController(
        StepTimes(), rungs(16), ToldCores(lambda: 3.0, lambda: idle_now), lambda: now
    )
    assert controller.threads(is_prefill=True) == 16
    now, idle_now = 5.0, 7.0
    assert controller.threads(is_prefill=True) == 6


def test_after_a_rest_other_work_that_has_only_just_begun_counts() -> None:
    now, looks = 5.0, [16.0, 3.0, 8.0, *[4.0] * 20]  # some of it is over in a moment
    controller = ThreadController(
        StepTimes(), rungs(16), ToldCores(lambda: 15.8, lambda: looks.pop(0)), lambda: now
    )
    assert controller.threads(is_prefill=True) == 16
    now = 10.0
    assert controller.threads(is_prefill=True) == 8


def test_after_a_short_rest_its_own_work_of_a_moment_ago_does_not_count() -> None:
    now, looks = 5.0, [1.0] * 6 + [2.0]  # the event loop runs for another moment
    controller = ThreadController(
        StepTimes(), rungs(2), ToldCores(lambda: 0.1, lambda: looks.pop(0)), lambda: now
    )
    assert controller.threads(is_prefill=True) == 2
    now, looks = 5.5, [0.0] * 20  # others have begun since
    assert controller.threads(is_prefill=True) == 1


def test_between_steps_that_follow_each_other_its_own_threads_do_not_count() -> None:
    now, looks = 0.0, [2.0] + [0.0] * 100
    controller = ThreadController(
        StepTimes(), rungs(2), ToldCores(lambda: 0.1, lambda: looks.pop(0)), lambda: now
    )
    for _ in range(10):
        assert controller.threads(is_prefill=False) == 2
        now += 0.1
