"""A hung engine thread is noticed and given up, and closing has a deadline."""

import asyncio
import threading

import numpy as np
import pytest
from fakes import FakeBackend, answer, run, settle
from numpy.typing import NDArray

from localinfra.engine import engine as engine_module
from localinfra.engine.backend import Batch
from localinfra.engine.engine import CLOSE_LIMIT_S, Engine
from localinfra.engine.request import (
    GenerationRequest,
)
from localinfra.errors import EngineFailed, ModelUnavailable
from localinfra.watchdog import COMPUTING_FACTOR, Phase, Pulse, Watchdog


class Stuck(FakeBackend):
    """Hangs in one method until released."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.may_go, self.hangs = threading.Event(), threading.Event()

    def decode(self, batch: Batch) -> None:
        self._stop("decode")
        super().decode(batch)

    def logits(self, row: int) -> NDArray[np.float32]:
        self._stop("logits")
        return super().logits(row)

    def _stop(self, method: str) -> None:
        if method == self.method:
            self.hangs.set()
            assert self.may_go.wait(60)


@pytest.mark.parametrize(("method", "phase"), [("decode", "COMPUTING"), ("logits", "WORKING")])
def test_a_hung_thread_has_no_pulse_and_can_be_given_up(method: str, phase: str) -> None:
    async def test() -> None:
        backend = Stuck(method)
        engine = Engine(backend)
        waiting = asyncio.create_task(answer(engine, GenerationRequest([1, 2], 3)))
        await asyncio.to_thread(backend.hangs.wait, 60)
        pulse = engine.pulse
        await asyncio.sleep(0.05)
        assert engine.pulse == pulse and pulse.phase is Phase[phase]
        engine.abandon("no step for 1 s")
        assert isinstance(await waiting, EngineFailed) and engine.fault == "no step for 1 s"
        with pytest.raises(EngineFailed):
            engine.generate([GenerationRequest([1], 1)])
        await asyncio.to_thread(engine.close)  # returns at once
        assert not backend.closed
        backend.may_go.set()
        while not backend.closed:  # the thread frees it when it resumes
            await asyncio.sleep(0.001)

    run(test)


def test_closing_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        backend = Stuck("decode")
        engine = Engine(backend)
        waiting = asyncio.create_task(answer(engine, GenerationRequest([1, 2], 3)))
        await asyncio.to_thread(backend.hangs.wait, 60)
        await asyncio.to_thread(engine.close, 0.05)
        assert isinstance(await waiting, ModelUnavailable)
        backend.may_go.set()

    assert 1 <= CLOSE_LIMIT_S <= 30 and engine_module
    run(test)


def test_idle_and_busy_engines_have_a_pulse() -> None:
    async def test() -> None:
        engine = Engine(FakeBackend())
        await answer(engine, GenerationRequest([1, 2], 3))
        await settle(engine)
        while engine.pulse.phase is not Phase.IDLE:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(engine.close)

    run(test)


def stands_still(pulses: list[Pulse], max_checks: int = 3) -> list[bool]:
    dog = Watchdog(max_checks)
    return [dog.stands_still(pulse) for pulse in pulses]


def test_the_watchdog_reports_a_pulse_that_stands_still() -> None:
    at, on = Pulse(1, Phase.WORKING), Pulse(2, Phase.WORKING)
    assert stands_still([at] * 4) == [False, False, False, True]
    assert not any(stands_still([at, at, at, on, on, on, at, at, at]))
    assert not any(stands_still([Pulse(1, Phase.IDLE)] * 99))
    computing = [Pulse(1, Phase.COMPUTING)] * 99
    assert stands_still(computing).index(True) == 3 * COMPUTING_FACTOR
    large = [at.computing(size=4)] * (12 * COMPUTING_FACTOR + 1)
    assert stands_still(large).index(True) == 12 * COMPUTING_FACTOR
