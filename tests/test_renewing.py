"""A server whose model gets faster weights while it runs: what `Runtime` does about it."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from asgi import answer, scope_of
from models.tiny_gguf import tiny_llama
from waiting import run

from localinfra.api.app import create_app
from localinfra.config import settings as config_file
from localinfra.kinds import TEXT
from localinfra.llama.model import Model
from localinfra.models import catalog as catalog_file
from localinfra.optimize import store
from localinfra.runtime import Runtime
from localinfra.text.quiet import FOR_REQUESTS


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    return tiny_llama().write(tmp_path / "tiny.gguf")


def start(file: Path, server: str = "", optimize: str = "lossless") -> Runtime:
    path = file.parent / "models.toml"
    path.write_text(
        f'[server]\n{server}\n[model.a]\nkind = "text"\nsource = "{file}"\n'
        f'optimize = "{optimize}"\ngpu_layers = 0\nthreads = 1\n'
    )
    config = config_file.load(path)
    return Runtime(config.server, catalog_file.load(config))


def choose_others(file: Path) -> Path:
    """Decides that a copy of the file is served in its place."""
    with store.locked(lambda holder: None), store.scratch(0) as scratch:
        made = scratch / "made.gguf"
        made.write_bytes(file.read_bytes())
        known = store.decide(store.identify(file), store.digest_of(file), "faster", ("f32", made))
        store.keep(known, made)
    assert known.path
    return known.path


async def served(runtime: Runtime) -> Path:
    lease = await runtime.lease("a")
    model = TEXT.own(lease.model)
    lease.release()
    assert isinstance(model.vocabulary, Model)
    return model.vocabulary.path


def closing(runtime: Runtime, test: Callable[[], Awaitable[None]]) -> None:
    async def both() -> None:
        await test()
        await runtime.close()

    run(both)


@pytest.mark.parametrize("is_loaded", [True, False])
def test_weights_that_are_found_while_serving_are_served_from_the_next_load(
    file: Path, is_loaded: bool
) -> None:
    runtime = start(file)

    async def test() -> None:
        if is_loaded:
            assert await served(runtime) == file
        made = choose_others(file)
        assert await runtime._models.renew("a") is is_loaded
        assert await served(runtime) == made

    closing(runtime, test)


def test_with_a_default_seed_they_are_served_from_the_next_start_only(file: Path) -> None:
    runtime = start(file, "default_seed = 1")

    async def test() -> None:
        choose_others(file)
        assert await served(runtime) == file
        await runtime._models.unload("a")
        assert await served(runtime) == file

    closing(runtime, test)
    again = start(file, "default_seed = 1")

    async def test_again() -> None:
        assert await served(again) == choose_others(file)

    closing(again, test_again)


def test_the_list_of_models_shows_how_far_the_search_is(file: Path) -> None:
    async def shown(runtime: Runtime) -> object:
        reply = await answer(create_app(runtime), scope_of(path="/v1/models/a"))
        return msgspec.json.decode(reply.body).get("optimize")

    async def test() -> None:
        assert await shown(start(file)) == FOR_REQUESTS
        assert await shown(start(file, optimize="off")) is None

    run(test)


def test_every_request_for_a_model_stops_the_measurement(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = start(file)
    stops: list[str] = []
    monkeypatch.setattr(runtime._faster_weights, "make_way", lambda: stops.append("stop"))

    async def test() -> None:
        await served(runtime)
        assert stops == ["stop"]

    closing(runtime, test)
