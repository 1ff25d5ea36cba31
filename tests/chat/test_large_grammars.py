"""Grammars of large schemas compile within their limits, in one form of each shape."""

from collections.abc import Iterator
from typing import Any

import pytest
from written_calls import FORMS

from localinfra.chat.answer import Answer, Tool, ToolUse, grammar_of
from localinfra.chat.formats.form import CallForm, Voice
from localinfra.engine.grammar.prober import Prober

CHAIN = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
LARGE: list[dict[str, Any]] = [
    {"properties": {f"p{n}": {"type": "string"} for n in range(2000)}},
    {"properties": {"v": {"enum": [f"choice {n}" for n in range(20_000)]}}},
    {"properties": {"v": {"anyOf": [{"const": n} for n in range(2000)]}}},
    {"properties": {"v": {"type": "string", "maxLength": 10**9}}},
    {"properties": {"v": {"type": "array", "items": {}, "minItems": 10**6}}},
    {"properties": {f"p{n}": {"$ref": "#/$defs/d0"} for n in range(500)}, "$defs": CHAIN},
    {"properties": {"v": {"$ref": "#"}}, "required": ["v"]},
    {"properties": {"v": {"type": "string", "pattern": "(a*)*b" * 50}}},
]


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    prober = Prober()
    yield prober
    prober.close()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("schema", LARGE, ids=range(len(LARGE)))
def test_large_schemas_compile_in_their_time(
    prober: Prober, form: CallForm, schema: dict[str, Any]
) -> None:
    tool = Tool("f", {}, {"type": "object", **schema}, "t")
    source = grammar_of(Answer(use=ToolUse([tool])), Voice(form, True), {}, False)
    assert source
    prober.check(source.text, "t")
