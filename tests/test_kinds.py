"""Each kind of model has its rows: what models.toml may say, who loads it, how it is asked."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from asgi import call, scope_of

from localinfra import kinds
from localinfra.api.app import create_app
from localinfra.config.settings import ServerSettings
from localinfra.kinds import Kind
from localinfra.models import entries
from localinfra.models.catalog import Catalog
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.prefixes.shelves import Shelves
from localinfra.runtime import Runtime


class SpeechEntry(ModelEntry, frozen=True):
    """A made-up kind, which has a route of its own alone."""

    kind = "speech"
    article = "a speech model"
    routes = ("/v1/audio/speech",)


def test_every_kind_of_entry_can_be_loaded() -> None:
    assert set(entries.KINDS.values()) == set(kinds.BY_ENTRY)


def test_every_kind_of_entry_answers_where_it_says() -> None:
    app = create_app(Runtime(ServerSettings(), Catalog({})))
    paths = {getattr(route, "path", "") for route in app.routes}
    assert {route for kind in entries.KINDS.values() for route in kind.routes} <= paths


def test_a_kind_without_a_native_api_says_where_it_answers() -> None:
    talker = SpeechEntry(source=PathSource(Path("talker.gguf")))
    app = create_app(Runtime(ServerSettings(), Catalog({"talker": talker})))
    reply = call(app, scope_of("POST", "/v1/inference/talker", [("host", "localhost")]))
    assert reply.status == 400
    assert reply.error["message"] == (
        "talker is a speech model: it answers at /v1/audio/speech, not at /v1/inference."
    )


@pytest.mark.parametrize(
    ("says", "num_loads"),
    [("AST constructor recursion depth mismatch (before=2, after=1)", 2), ("something else", 1)],
)
def test_threads_that_parse_source_at_once_cost_no_model(says: str, num_loads: int) -> None:
    loads: list[str] = []

    def loader(
        name: str, entry: TextModelEntry, settings: ServerSettings, plan: object, _: Shelves
    ) -> Any:
        loads.append(name)
        if len(loads) == 1:
            raise SystemError(says)

    kind = Kind(TextModelEntry, kinds.plan_text, loader)
    with pytest.raises(SystemError) if num_loads == 1 else contextlib.nullcontext():
        entry = TextModelEntry(source=PathSource(Path("m.gguf")))
        kind.load("m", entry, ServerSettings(), None, Shelves(Path()))
    assert loads == ["m"] * num_loads
