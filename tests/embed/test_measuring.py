"""Measuring while serving, with a fake child that writes a plan, fails, or takes long."""

import logging
import os
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from localinfra import cache
from localinfra.embed import measuring
from localinfra.embed import plan as plans
from localinfra.embed.encoder import Description
from localinfra.embed.measuring import Measurement
from localinfra.embed.plan import EncoderPlan, MeasuredWay

PLAN = EncoderPlan(
    Description("embedding", 4, 16, 0, False),
    {"torch": MeasuredWay(1.0, True, 2.0, 2.0), "onnx": MeasuredWay(1.0, True, 1.0, 1.0)},
)
REQUEST = plans.Request("folder", "embedding", "", 1)
CHILD = """
import pathlib, json, sys, time
print("measuring onnx", flush=True)
out = pathlib.Path(json.loads(sys.argv[-1])["out"])
WORK
(out / "plan.json").write_bytes(PLAN)
"""
TAKES_LONG = "time.sleep(600)"
FAILS = "sys.exit('no such operation')"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "encoders" / "model-1-2"


@pytest.fixture(autouse=True)
def _quiet_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "QUIET_CHECK_S", 0.01)
    monkeypatch.setattr(measuring, "MAX_WAIT_S", 0.1)


def child(monkeypatch: pytest.MonkeyPatch, work: str = "") -> None:
    program = CHILD.replace("WORK", work).replace("PLAN", repr(msgspec.json.encode(PLAN)))
    monkeypatch.setattr(measuring, "COMMAND", [sys.executable, "-c", program])


class Found:
    """A measurement, and the plans it handed over."""

    def __init__(self, place: Path) -> None:
        self.plans: list[EncoderPlan] = []
        self.measurement = Measurement("m", REQUEST, place, self.plans.append)

    def wait(self) -> list[EncoderPlan]:
        self.measurement._thread.join(60)
        assert not self.measurement._thread.is_alive()
        return self.plans


def found(place: Path) -> Found:
    found = Found(place)
    found.measurement.start()
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != cache.LOCK)


def test_the_plan_is_cached_and_handed_over_and_progress_is_logged(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    child(monkeypatch)
    assert found(place).wait() == [PLAN]
    assert plans.load(place) == PLAN and names(place.parent) == [place.name]
    assert "m: measuring onnx" in caplog.text


def test_of_two_with_the_same_request_only_one_measures(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    child(monkeypatch, "time.sleep(0.3)")
    both = [found(place), found(place)]
    assert [each.wait() for each in both] == [[PLAN], [PLAN]]
    assert caplog.text.count("measuring onnx") == 1


def test_an_unreadable_plan_is_replaced(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.mkdir(parents=True)
    (place / plans.PLAN).write_text("{")
    (place / plans.GRAPH).write_text("old")
    child(monkeypatch)
    assert found(place).wait() == [PLAN]
    assert names(place) == [plans.PLAN]


def test_a_failed_child_is_logged_and_leaves_no_files(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    child(monkeypatch, FAILS)
    assert found(place).wait() == []
    assert "no such operation" in caplog.text and names(place.parent) == []


@pytest.mark.parametrize("moment", ["before it starts", "while it waits", "while it measures"])
def test_a_cancelled_measurement_ends_at_once_and_silently(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    child(monkeypatch, TAKES_LONG)
    if moment == "while it waits":
        monkeypatch.setattr(measuring, "MAX_WAIT_S", 6000.0)
        monkeypatch.setattr(measuring, "QUIET_CORES", -1.0)
    one = Found(place)
    if moment != "before it starts":
        one.measurement.start()
    while moment == "while it measures" and one.measurement._child is None:
        time.sleep(0.001)
    one.measurement.cancel()
    assert one.wait() == [] if one.measurement._thread.ident else one.plans == []
    assert not place.parent.exists() or names(place.parent) == []
    assert "failed" not in caplog.text
    if process := one.measurement._child:
        assert process.poll() is not None


def test_a_measurement_that_waits_for_another_process_can_be_cancelled(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch)
    with cache.locked(place.parent / cache.LOCK):
        one = found(place)
        time.sleep(0.05)
        one.measurement.cancel()
        assert one.wait() == []


def test_it_starts_when_the_process_is_quiet(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch)
    used = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: used[0])
    monkeypatch.setattr(measuring, "MAX_WAIT_S", 6000.0)
    is_busy = threading.Event()
    is_busy.set()

    def compute() -> None:
        while is_busy.is_set():
            used[0] += 1
            time.sleep(0.001)

    threading.Thread(target=compute, daemon=True).start()
    one = found(place)
    time.sleep(0.2)
    assert one.measurement._child is None and os.listdir(place.parent.parent) == []
    is_busy.clear()
    assert one.wait() == [PLAN]
