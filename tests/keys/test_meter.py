"""What requests with one key may do, on a clock that the test holds."""

import pytest

from localinfra.errors import RateLimited
from localinfra.keys.meter import KeyMeter, Meters, Permit, duration
from localinfra.keys.record import KeyLimits


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_requests_per_minute(clock: Clock) -> None:
    meter = KeyMeter(KeyLimits(rpm=2), clock)
    for _ in range(2):
        meter.enter(10**9)  # no limit on tokens
        meter.leave(0, 10**9)
    with pytest.raises(RateLimited, match=r"requests per min .*try again in 30s") as refused:
        meter.enter(0)
    error = refused.value
    assert (error.type, error.code, error.retry_after_s) == ("requests", "rate_limit_exceeded", 30)
    clock.now_s = 30
    meter.enter(0)


def test_a_refused_request_uses_nothing(clock: Clock) -> None:
    meter = KeyMeter(KeyLimits(rpm=60, tpm=100, concurrent=1), clock)
    reserved = meter.enter(100)
    for _ in range(500):
        with pytest.raises(RateLimited):
            meter.enter(0)
    meter.leave(reserved, 0)
    assert [state.remaining for state in meter.states()] == [59, 100]
    meter.leave(meter.enter(100), 100)
    for _ in range(500):
        with pytest.raises(RateLimited, match="tokens"):
            meter.enter(50)
    assert [state.remaining for state in meter.states()] == [58, 0]


def test_tokens_are_reserved_first_and_then_charged_as_used(clock: Clock) -> None:
    meter = KeyMeter(KeyLimits(tpm=600), clock)
    reserved = meter.enter(500)
    with pytest.raises(RateLimited) as refused:
        meter.enter(200)
    assert (refused.value.type, refused.value.retry_after_s) == ("tokens", 10)
    meter.leave(reserved, 100)  # less than was reserved
    meter.leave(meter.enter(500), 1100)  # more: it is owed
    with pytest.raises(RateLimited) as refused:
        meter.enter(0)
    assert refused.value.retry_after_s == 60  # 600 tokens too many, at 10 a second
    clock.now_s = 60
    meter.enter(0)


def test_a_larger_request_than_the_limit_has_its_turn(clock: Clock) -> None:
    meter = KeyMeter(KeyLimits(tpm=60), clock)
    meter.leave(meter.enter(10_000), 30)
    with pytest.raises(RateLimited) as refused:
        meter.enter(10_000)
    assert refused.value.retry_after_s == 30


def test_concurrent_requests(clock: Clock) -> None:
    meter = KeyMeter(KeyLimits(concurrent=2), clock)
    meter.enter(0)
    meter.enter(0)
    with pytest.raises(RateLimited, match="2 requests with this API key are running"):
        meter.enter(0)
    meter.leave(0, 0)
    meter.enter(0)
    assert meter.states() == []  # no header tells of this limit


def test_a_permit_counts_its_request_once_whatever_it_does(clock: Clock) -> None:
    meter = KeyMeter(KeyLimits(rpm=10, concurrent=5), clock)
    permit = Permit(meter)
    permit.leave(0)  # it never used a model
    assert meter.num_running == 0
    permit.enter()
    permit.enter()
    assert meter.num_running == 1
    permit.leave(0)
    permit.leave(0)
    assert meter.num_running == 0
    assert [state.remaining for state in permit.states()] == [9]


def test_who_leaves_makes_room_for_the_next_before_its_tokens_are_counted(clock: Clock) -> None:
    meter = KeyMeter(KeyLimits(tpm=1000, concurrent=1), clock)
    first, second = Permit(meter), Permit(meter)
    first.client_left()  # it never used a model
    first.expected_tokens = second.expected_tokens = 100
    first.enter()
    for _ in range(2):
        first.client_left()
    second.enter()
    assert [state.remaining for state in meter.states()] == [800]
    with pytest.raises(RateLimited, match="1 requests"):
        Permit(meter).enter()
    first.leave(30)
    with pytest.raises(RateLimited, match="1 requests"):
        Permit(meter).enter()
    second.leave(0)
    assert meter.num_running == meter.num_left == 0
    assert [state.remaining for state in meter.states()] == [970]


def test_without_limits_everything_goes(clock: Clock) -> None:
    assert Meters(clock).of("label", KeyLimits()) is None
    permit = Permit()
    permit.enter()
    permit.leave(10**12)
    assert permit.states() == []


def test_a_key_keeps_its_meter_until_it_is_gone(clock: Clock) -> None:
    meters = Meters(clock)
    meter = meters.of("a", KeyLimits(rpm=5, tpm=50))
    assert meter
    meter.enter(10)
    assert meters.of("a", KeyLimits(rpm=5, tpm=50)) is meter
    assert meters.of("b", KeyLimits(rpm=5)) is not meter
    changed = meters.of("a", KeyLimits(rpm=5, tpm=70, concurrent=1))
    assert changed is meter
    assert [state.remaining for state in meter.states()] == [4, 70]
    with pytest.raises(RateLimited):  # what runs counts on
        meter.enter(0)
    meters.keep_only({"b"})
    assert meters.of("a", KeyLimits(rpm=5)) is not meter


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.0204, "20ms"), (0.9994, "999ms"), (1, "1s"), (8.64, "8.64s"),
        (59.999, "1m0s"), (60, "1m0s"), (360, "6m0s"), (3661.5, "1h1m1.5s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text
