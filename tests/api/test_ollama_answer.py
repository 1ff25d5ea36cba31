"""The parts of an answer as Ollama's clients read them, and how durations are written."""

import itertools
import json
from collections.abc import Sequence

import pytest

from localinfra.api.ollama.answer import PieceReader, Said, joined
from localinfra.api.ollama.options import OllamaFields
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
)
from localinfra.errors import InvalidRequest

PIECES: list[Piece] = [
    Thought("Hm. "), Content("Let me see."), CallStart("add", "id1"), CallArguments('{"a":'),
    CallArguments(" 1}"), CallEnd(), CallStart("now"), CallEnd(), Content("Done."),
]  # fmt: skip


def read(steps: Sequence[Sequence[Piece]]) -> Said:
    reader = PieceReader()
    last = len(steps) - 1
    return joined([reader.read(step, is_last=at == last) for at, step in enumerate(steps)])


def test_an_answer_is_the_same_however_it_is_cut_into_steps() -> None:
    for one, two in itertools.combinations(range(len(PIECES) + 1), 2):
        said = read([PIECES[:one], PIECES[one:two], PIECES[two:]])
        assert (said.thinking, said.content) == ("Hm. ", "Let me see.Done.")
        calls = [(call.function.name, bytes(call.function.arguments)) for call in said.tool_calls]
        assert calls == [("add", b'{"a": 1}'), ("now", b"{}")]
        assert said.tool_calls[0].id == "id1" != said.tool_calls[1].id


@pytest.mark.parametrize(
    ("written", "arguments"),
    [("", {}), ('{"a": 1, "b', {"a": 1}), ('{"a": [1, 2', {"a": [1]})],
)
def test_a_call_that_is_cut_off_has_what_is_complete(written: str, arguments: object) -> None:
    said = read([[CallStart("add")], [CallArguments(written)] if written else []])
    assert [json.loads(bytes(call.function.arguments)) for call in said.tool_calls] == [arguments]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("5m0s", 300), ("1h30m", 5400), ("300ms", 0.3), ("2us", 2e-6), ("2µs", 2e-6), ("10", 10),
        ("+1.5h", 5400), (".5s", 0.5), ("0", 0), (0.0, 0), (7.5, 7.5), ("1s500ms", 1.5),
        (-1.0, None), ("-1", None), ("-1m", None), ("9" * 90 + "h", None), (1e300, None),
    ],
)  # fmt: skip
def test_keep_alive_is_seconds_or_a_duration_as_go_writes_it(
    given: str | float, seconds: float | None
) -> None:
    kept_s = OllamaFields(model="m", keep_alive=given).kept_s
    assert kept_s == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("given", ["soon", "5 m", "1d", "m", "--1s", "1h30", "٣s", "1e3", "inf"])
def test_other_durations_are_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive can't be"):
        OllamaFields(model="m", keep_alive=given)
