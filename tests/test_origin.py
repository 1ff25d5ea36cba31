"""Settings and models that are read again while a server runs."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from asgi import answer, scope_of
from models.tiny_gguf import tiny_llama
from starlette.types import ASGIApp
from waiting import run, until

from localinfra.api.app import create_app
from localinfra.errors import ConfigError, InvalidRequest, ModelNotFound, ModelUnavailable
from localinfra.footprint import CPU, GIB, NO_MEMORY, Footprint
from localinfra.leases import Leases
from localinfra.models.catalog import Catalog
from localinfra.models.entries import ModelEntry
from localinfra.models.pool import LoadState
from localinfra.models.seats import LoadPlan
from localinfra.origin import Origin
from localinfra.runtime import Runtime

FILE = """
[server]
default_seed = 1
[model.a]
kind = "text"
source = "a.gguf"
[model.b]
kind = "text"
source = "b.gguf"
"""


class Model:
    """A model that only says which entry it was loaded for."""

    is_busy = False
    footprint = NO_MEMORY

    def __init__(self, entry: ModelEntry):
        self.entry = entry
        self.worker = SimpleNamespace(fault=None, is_device_lost=False)
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Playing(Runtime):
    def _load_kind(self, name: str, entry: ModelEntry, plan: LoadPlan) -> Any:
        return Model(entry)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "own"))
    (tmp_path / "models.toml").write_text(FILE)
    for name in ("a", "b"):
        tiny_llama().write(tmp_path / f"{name}.gguf")
    return tmp_path


def playing(folder: Path, *models: str, check: Any = lambda *_: None) -> Playing:
    origin = Origin(folder / "models.toml", models, check=check)
    settings, catalog = origin.read()
    return Playing(settings, catalog, origin)


def test_a_reload_changes_models_and_live_settings_and_names_the_rest(folder: Path) -> None:
    text = FILE.replace("seed = 1", "seed = 2\nport = 9").replace("[model.b]", "[model.c]")
    text = text.replace('"a.gguf"', '"a.gguf"\ncontext_length = 64')

    async def scenario() -> None:
        runtime = playing(folder)
        for name in ("a", "b"):
            await runtime.load(name)
        request = await runtime.lease("a")
        old = cast("Model", request.model)
        (folder / "models.toml").write_text(text)
        changes = await runtime.reload()
        assert (changes.added, changes.changed, changes.removed) == (["c"], ["a"], ["b"])
        assert str(changes) == (
            "added: c; changed: a; removed: b. Only a restart changes port of [server]."
        )
        assert (runtime.settings.default_seed, runtime.settings.port) == (2, 8000)
        await asyncio.sleep(0.01)
        assert "a" in runtime.loaded() and not old.is_closed, "its requests go on"
        assert runtime.loaded_text_models().keys() <= {"a"}, "b is removed, though in memory"
        request.release()
        await until(lambda: old.is_closed)
        await runtime.load("a")
        new = cast("Model", runtime.loaded()["a"])
        assert new is not old and new.entry.details.context_length == 64
        await until(lambda: runtime.state("b") is LoadState.ABSENT)
        with pytest.raises(ModelNotFound):
            runtime.catalog.resolve("b")
        await runtime.close()

    run(scenario)


def test_keys_limits_and_the_budget_change_at_a_reload(folder: Path) -> None:
    async def status(app: ASGIApp, key: str, body: bytes = b"") -> int:
        headers = [("host", "localhost"), ("authorization", f"Bearer {key}")]
        headers += [("content-type", "application/json")]
        path = "/v1/chat/completions" if body else "/v1/models"
        scope = scope_of("POST" if body else "GET", path, headers)
        return (await answer(app, scope, [body])).status

    async def scenario() -> None:
        (folder / "models.toml").write_text('server.api_keys = ["old"]')
        runtime = playing(folder)
        app = create_app(runtime)
        assert [await status(app, key) for key in ("old", "new")] == [200, 401]
        (folder / "models.toml").write_text(
            '[server]\napi_keys = ["new"]\nmax_body_bytes = 1024\nmemory_budget = "3GiB"'
        )
        assert (await runtime.reload()).needs_restart == []
        assert [await status(app, key) for key in ("old", "new")] == [401, 200]
        assert await status(app, "new", b'"' + b"a" * 2000 + b'"') == 413
        assert runtime.room()[CPU] == 3 * GIB
        await runtime.close()

    run(scenario)


def test_a_smaller_budget_unloads_idle_models_at_once(folder: Path) -> None:
    async def scenario() -> None:
        runtime = playing(folder)
        for name in ("a", "b"):
            await runtime.load(name)
        for seat in runtime._models.seats:
            seat.takes = Footprint({CPU: 2 * GIB})
        (folder / "models.toml").write_text(
            FILE.replace("[model.a]", 'memory_budget = "3GiB"\n[model.a]')
        )
        await runtime.reload()
        await until(lambda: runtime.state("a") is LoadState.ABSENT)
        assert runtime.state("b") is LoadState.LOADED
        await runtime.close()

    run(scenario)


@pytest.mark.parametrize("key", ["max_queue", "max_request_tokens", "max_megapixel_steps"])
def test_what_models_are_loaded_with_is_changed_by_loading_them_anew(
    folder: Path, key: str
) -> None:
    async def scenario() -> None:
        runtime = playing(folder)
        await runtime.load("a")
        (folder / "models.toml").write_text(FILE.replace("[model.a]", f"{key} = 3\n[model.a]"))
        assert not (await runtime.reload()).needs_restart
        await until(lambda: runtime.state("a") is LoadState.ABSENT)
        await runtime.close()

    run(scenario)


def test_a_reload_never_opens_a_server_that_others_can_reach(folder: Path) -> None:
    """The new file is safe by itself, but its host needs a restart."""

    async def scenario() -> None:
        (folder / "models.toml").write_text('server.host = "0.0.0.0"\nserver.api_keys = ["old"]')
        runtime = playing(folder)
        before = runtime.settings, runtime.catalog
        (folder / "models.toml").write_text(FILE)
        with pytest.raises(ConfigError, match="without an API key"):
            await runtime.reload()
        assert (runtime.settings, runtime.catalog) == before
        await runtime.close()

    run(scenario)


@pytest.mark.parametrize("text", ["[server", "[server]\nprot = 1", FILE + "optimise = 1"])
def test_a_bad_file_changes_nothing(folder: Path, text: str) -> None:
    async def scenario() -> None:
        runtime = playing(folder)
        await runtime.load("a")
        before = runtime.settings, runtime.catalog, runtime.loaded()
        (folder / "models.toml").write_text(text)
        with pytest.raises(ConfigError):
            await runtime.reload()
        assert (runtime.settings, runtime.catalog, runtime.loaded()) == before
        (folder / "new.gguf").write_bytes(b"")
        await runtime.refresh()
        assert runtime.catalog.names == ("a", "b")
        await runtime.close()

    run(scenario)


def test_new_files_are_found_and_gone_ones_are_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localinfra.runtime.REFRESH_AFTER_S", 0.0)
    (folder / "models").mkdir()

    async def scenario() -> None:
        (folder / "models.toml").write_text('server.models_dir = "models"')
        runtime = playing(folder)
        assert not runtime.catalog.names
        path = tiny_llama().write(folder / "models" / "new.gguf")
        await runtime.refresh()
        assert runtime.catalog.names == ("new",)
        await runtime.load("new")
        path.unlink()
        await runtime.refresh()
        assert not runtime.catalog.names
        await runtime.close()

    run(scenario)


def test_given_files_are_served_alone_without_a_settings_file(folder: Path) -> None:
    file = str(folder / "a.gguf")
    assert Origin(None, [file]).read()[1].names == ("a",)
    together = Origin(folder / "models.toml", [str(tiny_llama().write(folder / "c.gguf"))])
    assert together.read()[1].names == ("a", "b", "c")


@pytest.mark.parametrize("is_loading", [True, False])
def test_a_model_that_failed_is_tried_anew_once_its_table_has_changed(
    folder: Path, is_loading: bool
) -> None:
    async def scenario() -> None:
        runtime = playing(folder)
        has_begun, may_fail, may_load = threading.Event(), threading.Event(), runtime._load_kind

        def fail(name: str, entry: ModelEntry, plan: LoadPlan) -> Any:
            has_begun.set()
            may_fail.wait(60)
            raise MemoryError("too little")

        runtime._load_kind = fail  # type: ignore[method-assign]
        early = asyncio.create_task(runtime.load("a"))
        await until(has_begun.is_set)
        if not is_loading:
            may_fail.set()
            await asyncio.wait((early,))
        (folder / "models.toml").write_text(
            FILE.replace('"a.gguf"', '"a.gguf"\ncontext_length = 64')
        )
        await runtime.reload()
        may_fail.set()
        with pytest.raises(ModelUnavailable, match="too little"):
            await early
        runtime._load_kind = may_load  # type: ignore[method-assign]
        await runtime.load("a")
        await runtime.close()

    run(scenario)


def test_a_model_that_a_reload_removes_or_changes_while_requests_wait_is_told(
    folder: Path,
) -> None:
    async def scenario() -> None:
        runtime = playing(folder)
        plan, may_plan = runtime._plan, threading.Event()

        def wait(name: str, held: Footprint) -> LoadPlan:
            may_plan.wait(60)
            return plan(name, held)

        runtime._models._sharing = replace(runtime._models._sharing, plan=wait)
        waiting = [asyncio.create_task(Leases(runtime).text(name, "/")) for name in ("a", "b")]
        await until(lambda: runtime.state("b") is LoadState.LOADING)
        (folder / "models.toml").write_text(
            'model.b = { kind = "embedding", source = "b.gguf" }\n'
            'model.other = { kind = "text", source = "a.gguf" }\n'
            'server.fallback_model = "other"\n'
        )
        await runtime.reload()
        may_plan.set()
        with pytest.raises(ModelNotFound, match="'a' is not served any more"):
            await waiting[0]
        with pytest.raises(InvalidRequest, match="b is an embedding model"):
            await waiting[1]
        await runtime.close()

    run(scenario)


def test_a_slow_search_for_models_does_not_undo_a_reload(folder: Path) -> None:
    async def scenario() -> None:
        runtime = playing(folder)
        origin = runtime._origin
        assert origin
        discover, may_go, has_read = origin.discover, threading.Event(), threading.Event()

        def slow() -> Catalog:
            found = discover()
            has_read.set()
            may_go.wait(60)
            return found

        origin.discover = slow  # type: ignore[method-assign]
        search = asyncio.create_task(runtime.refresh(is_urgent=True))
        await until(has_read.is_set)
        (folder / "models.toml").write_text(FILE.replace("[model.b]", "[model.c]"))
        reload = asyncio.create_task(runtime.reload())
        await asyncio.sleep(0.05)
        may_go.set()
        await asyncio.gather(search, reload)
        assert runtime.catalog.names == ("a", "c")
        await runtime.close()

    run(scenario)
