"""Parts that break come back, and `/health` tells meanwhile; over models that only play."""

import asyncio
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from asgi import answer, scope_of
from waiting import run

from localinfra import runtime as runtime_module
from localinfra.api.app import create_app
from localinfra.config import settings as config_file
from localinfra.engine.request import EngineStats
from localinfra.errors import ModelUnavailable
from localinfra.footprint import NO_MEMORY
from localinfra.journal import CrashJournal, Mark, Trouble
from localinfra.models import catalog as catalog_file
from localinfra.origin import Origin
from localinfra.runtime import Runtime
from localinfra.safeguard import MAX_HANGS
from localinfra.watchdog import Phase, Pulse

CATALOGUE = """
[server]
watchdog_s = 2

[model.text]
kind = "text"
source = "a.gguf"

[model.vectors]
kind = "embedding"
source = "b.gguf"

[model.flux]
kind = "image"
source = "folder"
"""


class Worker:
    num_waiting = 0
    is_device_lost = False

    def __init__(self) -> None:
        self.mark = Mark()
        self.fault: str | None = None
        self.pulse = Pulse()
        self.given_up: str | None = None

    def abandon(self, reason: str) -> None:
        self.given_up = reason


class Model:
    stats = EngineStats(0, 0, 0, 0, 0)
    is_busy = False
    footprint = NO_MEMORY

    def __init__(self) -> None:
        self.worker = Worker()
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Playing(Runtime):
    error: Exception | None = None

    def _load_kind(self, name: str, entry: object, plan: object) -> Any:
        if self.error:
            raise self.error
        return Model()

    async def model(self, name: str) -> Any:
        return await self._models.get(name)

    async def health(self) -> tuple[int, dict[str, Any]]:
        reply = await answer(create_app(self), scope_of(path="/health"))
        return reply.status, msgspec.json.decode(reply.body)


@pytest.fixture
def runtime(tmp_path: Path) -> Playing:
    (tmp_path / "models.toml").write_text(CATALOGUE)
    config = config_file.load(tmp_path / "models.toml")
    return Playing(config.server, catalog_file.load(config))


@pytest.mark.parametrize("name", ["text", "vectors", "flux"])
def test_a_dead_part_makes_health_degraded_until_it_is_back(runtime: Playing, name: str) -> None:
    async def test() -> None:
        model = await runtime.model(name)
        assert await runtime.health() == (200, {**(await runtime.health())[1], "status": "ok"})
        model.worker.fault = "its thread ended with MemoryError()"
        status, told = await runtime.health()
        assert (status, told["status"]) == (503, "degraded")
        assert told["reason"] == f"{name}: its thread ended with MemoryError()"
        assert told["models_loaded"] == 0
        again = await runtime.model(name)
        assert again is not model and model.is_closed
        status, told = await runtime.health()
        assert (status, told["status"]) == (200, "ok") and "reason" not in told
        await runtime.close()

    run(test)


def test_health_stays_degraded_while_it_can_not_be_loaded(runtime: Playing) -> None:
    async def test() -> None:
        (await runtime.model("text")).worker.fault = "gone"
        runtime.error = RuntimeError("still no memory")
        with pytest.raises(ModelUnavailable) as caught:
            await runtime.model("text")
        assert caught.value.retry_after_s and (await runtime.health())[0] == 503
        await runtime.close()

    run(test)


def test_a_broken_model_that_is_not_served_any_more_is_no_trouble(
    runtime: Playing, tmp_path: Path
) -> None:
    file = tmp_path / "models.toml"
    runtime._origin = Origin(file)

    async def test() -> None:
        (await runtime.model("text")).worker.fault = "gone"
        assert (await runtime.health())[0] == 503
        table = CATALOGUE.partition("[model.vectors]")[0].partition("[model.text]")
        file.write_text(CATALOGUE.replace(table[1] + table[2], ""))
        assert (await runtime.reload()).removed == ["text"]
        assert (await runtime.health())[0] == 200
        file.write_text(CATALOGUE)
        await runtime.reload()
        assert (await runtime.health())[0] == 200  # forgotten, not only left out
        await runtime.close()

    run(test)


def test_it_comes_back_by_itself_where_nobody_asks(
    runtime: Playing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "PULSE_CHECK_S", 0.01)
    monkeypatch.setattr(runtime_module, "REVIVE_AFTER_S", 0.2)

    async def test() -> None:
        runtime.start()
        (await runtime.model("text")).worker.fault = "gone"
        assert (await runtime.health())[0] == 503
        while (await runtime.health())[0] == 503:
            await asyncio.sleep(0.01)
        assert "text" in runtime.loaded()
        await runtime.close()

    run(test)


@pytest.mark.parametrize("name", ["text", "vectors", "flux"])
def test_an_engine_that_hangs_is_left_behind_and_loaded_anew(
    runtime: Playing, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime_module, "PULSE_CHECK_S", 0.5)  # four checks are two seconds

    async def test() -> None:
        for number in range(MAX_HANGS):
            model = await runtime.model(name)
            model.worker.pulse = Pulse(7, Phase.WORKING)
            for _ in range(5):
                assert model.worker.given_up is None
                runtime._give_up_hanging()
            assert model.worker.given_up == "its engine made no step for 2 s"
            assert f"{name}: its engine made no step" in (await runtime.health())[1]["reason"]
            assert caplog.text.count("_give_up_hanging") == number + 1  # every thread's stack
        with pytest.raises(ModelUnavailable, match="Restart the server"):
            await runtime.model(name)
        await runtime.close()

    run(test)


class Seeing(Model):
    """With a thread of its own for pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_pulse = Pulse()
        self.encoder_given_up: str | None = None

    def abandon_encoder(self, reason: str) -> None:
        self.encoder_given_up = reason


def test_a_projector_that_hangs_takes_its_engine_with_it(
    runtime: Playing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "PULSE_CHECK_S", 0.5)  # four checks are two seconds
    monkeypatch.setattr(runtime, "_load_kind", lambda *_: Seeing())

    async def test() -> None:
        model = await runtime.model("text")
        model.encoder_pulse = Pulse(7, Phase.COMPUTING)
        for number in range(41):
            assert model.worker.given_up is None
            model.worker.pulse = Pulse(number, Phase.WORKING)  # which goes on
            runtime._give_up_hanging()
        reason = "its projector made no step for 20 s"
        assert (model.worker.given_up, model.encoder_given_up) == (reason, reason)
        assert (await runtime.model("text")) is not model
        await runtime.close()

    run(test)


@pytest.mark.parametrize("trouble", [Trouble.HANGS, Trouble.DEVICE_LOST])
def test_under_a_supervisor_the_process_ends_for_a_model_that_only_a_new_one_can_free(
    runtime: Playing, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "PULSE_CHECK_S", 0.5)
    journal, reasons = CrashJournal(), list[str]()

    async def test() -> None:
        runtime.safeguard.note_in(journal)
        runtime.safeguard.supervise(reasons.append)
        model = await runtime.model("text")
        if trouble is Trouble.HANGS:
            model.worker.pulse = Pulse(7, Phase.WORKING)
            for _ in range(5):
                runtime._give_up_hanging()
        else:
            model.worker.is_device_lost, model.worker.fault = True, "its GPU fell off the bus"
            runtime.faults()
        while not reasons:
            await asyncio.sleep(0.01)
        assert [(one.name, one.trouble) for one in journal.at_work()] == [("text", trouble)]
        await runtime.close()

    run(test)


def test_a_check_that_fails_is_not_the_last_one(
    runtime: Playing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "PULSE_CHECK_S", 0.01)
    seen: list[float] = []

    def fail() -> None:
        seen.append(time.monotonic())
        raise ZeroDivisionError

    async def test() -> None:
        monkeypatch.setattr(runtime, "_revive", fail)
        runtime.start()
        while len(seen) < 3:
            await asyncio.sleep(0.01)
        await runtime.close()

    run(test)


def test_what_an_unloaded_model_leaves_of_a_gpu_is_given_back(
    runtime: Playing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch keeps what it frees, and another library's model could not have it."""
    emptied: list[bool] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        mem_get_info=lambda device: (1 << 30, 1 << 30),
        memory_reserved=lambda device: 0,
        empty_cache=lambda: emptied.append(True),
    )
    mps = SimpleNamespace(is_available=lambda: False)
    torch = SimpleNamespace(cuda=cuda, backends=SimpleNamespace(mps=mps))
    monkeypatch.setitem(sys.modules, "torch", torch)

    async def test() -> None:
        await runtime.load("vectors")
        await runtime.unload("vectors")
        assert emptied
        await runtime.close()

    run(test)
