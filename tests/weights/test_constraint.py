"""Grammars over the real vocabulary, followed by a writer that has no idea what it writes.

Random logits reach every corner of a grammar that a model would avoid, thousands of tokens a
second; `test_structured.py` has the model.
"""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import SMOLLM2, LiveServer

from localinfra.chat.answer import (
    ANY_OBJECT,
    Answer,
    AnswerFormat,
    Tool,
    ToolUse,
    grammar_of,
    parser_of,
)
from localinfra.chat.formats.families import DIALECTS, GENERIC, HARMONY, REASONING, Voice
from localinfra.chat.formats.pieces import CallEnd, CallStart, Content, Thought
from localinfra.chat.messages import Json
from localinfra.engine.grammar.constraint import (
    MAX_CACHED_S,
    MAX_FORCED_BYTES,
    Constraint,
    GrammarCompiler,
)
from localinfra.engine.request import SamplingParams
from localinfra.engine.sampling import Sampler
from localinfra.errors import InvalidRequest
from localinfra.llama.model import Model, ModelSettings
from localinfra.models.sources import locate

MAX_TOKENS = 3000


class Writer:
    """Writes texts that follow grammars, at temperature 2 over random logits. Tokens that close
    something are likelier, or it would hardly ever end."""

    def __init__(self, model: Model):
        self.model = model
        self.compiler = GrammarCompiler(model.grammar_tokenizer)
        self._bytes = [model.token_bytes(token) for token in range(model.num_vocab)]
        self._bonus = np.array(
            [12.0 * (text[:1] in (b'"', b"}", b"]", b"<")) for text in self._bytes], np.float32
        )
        self._ends = [token for token in range(model.num_vocab) if model.is_end(token)]
        self._bonus[self._ends] = 14

    def write(self, source: str, seed: int, start: str = "") -> str | None:
        """None where it found no end."""
        constraint = self.compiler.compile(source, "test").follow()
        rng = np.random.default_rng(seed)
        sampler = Sampler(SamplingParams(temperature=2, seed=seed), 0, [1])
        written = b""
        for token in self.model.tokenize(start, parse_special=True, add_bos=False):
            assert constraint.allows(token), (start, written)
            constraint.accept(token)
            written += self.spelled(token)
        for _ in range(MAX_TOKENS):
            if constraint.is_complete:
                return written.decode()
            row = rng.normal(0, 3, len(self._bytes)).astype(np.float32) + self._bonus
            token = sampler.sample(row, constraint)
            constraint.accept(token)
            if token in self._ends:
                return written.decode()
            written += self.spelled(token)
            for token in constraint.forced():
                assert constraint.allows(token)
                constraint.accept(token)
                if token in self._ends:
                    return written.decode()
                written += self.spelled(token)
        return None

    def spelled(self, token: int) -> bytes:
        return self._bytes[token] or self.model.token_text(token).encode()

    def json(self, schema: Any, seed: int) -> Any:
        source = grammar_of(Answer(AnswerFormat("json", "s", schema)), None, {}, False)
        assert source
        return self.write(source.text, seed)


@pytest.fixture(scope="module")
def writer(server: LiveServer) -> Iterator[Writer]:
    entry = server.runtime.catalog.entries[SMOLLM2]
    model = Model(locate(SMOLLM2, entry.source), ModelSettings())
    writer = Writer(model)
    yield writer
    writer.compiler.close()


INTEGERS = st.integers(-(2**53), 2**53)
NAMES = st.sampled_from(["a", "b", "c d", 'q"x', "é", "not"])
STRINGS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={"minLength": st.integers(0, 3), "maxLength": st.integers(3, 12)},
    ),
    st.builds(
        lambda pattern: {"type": "string", "pattern": pattern},
        st.sampled_from(["^[a-z]{2,4}$", r"^\d+$", "x|yz", r"^\w+@\w+\.com$", "^(é|漢){1,3}$"]),
    ),
    st.builds(
        lambda name: {"type": "string", "format": name},
        st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "email", "hostname"]),
    ),
)
NUMBERS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={"minimum": st.integers(-100, 5), "maximum": st.integers(5, 2000)},
    ),
    st.builds(lambda n: {"type": "integer", "multipleOf": n}, st.integers(1, 12)),
    st.just({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
)
VALUES = st.one_of(
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.one_of(NAMES, INTEGERS, st.none()), min_size=1, max_size=4, unique=True),
    ),
    st.builds(
        lambda value: {"const": value},
        st.one_of(NAMES, INTEGERS, st.booleans(), st.just([1, {"x": "y"}])),
    ),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}]),
)


def containers(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def as_object(properties: dict[str, Any], num_required: int, others: Any) -> dict[str, Any]:
        required = list(properties)[:num_required]
        return {"type": "object", "properties": properties, "required": required, **others}

    return st.one_of(
        st.builds(
            as_object,
            st.dictionaries(NAMES, parts, max_size=4),
            st.integers(0, 4),
            st.sampled_from([{}, {"additionalProperties": False}]),
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": parts},
            optional={"minItems": st.integers(0, 2), "maxItems": st.integers(2, 4)},
        ),
        st.builds(
            lambda items: {
                "type": "array",
                "prefixItems": items,
                "items": False,
                "minItems": len(items),
            },
            st.lists(parts, min_size=1, max_size=3),
        ),
        st.builds(lambda schemas: {"anyOf": schemas}, st.lists(parts, min_size=1, max_size=3)),
        st.just(
            {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2}
        ),
        st.just(
            {
                "type": "object",
                "patternProperties": {"^x": {"type": "null"}},
                "additionalProperties": False,
            }
        ),
    )


def references(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(lambda part: {"$ref": "#/$defs/part", "$defs": {"part": part}}, parts),
        st.builds(
            lambda part: {
                "type": "object",
                "properties": {"value": part, "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
                "required": ["value", "next"],
            },
            parts,
        ),
    )


LEAVES = st.one_of(STRINGS, NUMBERS, VALUES)
NESTED = st.one_of(LEAVES, containers(LEAVES), containers(containers(LEAVES)))
SCHEMAS = st.one_of(NESTED, NESTED, references(NESTED))


def conforms(writer: Writer, schema: Any, seed: int) -> bool:
    """False where it found no end."""
    try:
        text = writer.json(schema, seed)
    except InvalidRequest as error:
        assert "nsatisfiable" in error.message, (schema, error.message)
        return False
    if text is None:
        return False
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(
        json.loads(text), schema, jsonschema.Draft202012Validator, format_checker=checker
    )
    return True


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(SCHEMAS, st.integers(0, 2**32))
def test_what_is_written_by_a_schema_conforms_to_it(writer: Writer, schema: Any, seed: int) -> None:
    conforms(writer, schema, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(SCHEMAS, st.integers(0, 2**32))
def test_a_thousand_schemas(writer: Writer, schema: Any, seed: int) -> None:
    conforms(writer, schema, seed)


RECORD: dict[str, Json] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
        "n": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["name", "tags", "n"],
}


def test_hundreds_of_runs_of_one_schema_all_conform(writer: Writer) -> None:
    assert all(conforms(writer, RECORD, seed) for seed in range(300))


# --- tool calls of every family, with marks that this vocabulary writes as text -------------------

FORMS = [*{d.name: d.calls for d in DIALECTS}.items(), ("generic", GENERIC)]
VOICES = [(name, Voice(form, takes_tools=True)) for name, form in FORMS]
TOOLS = [
    Tool("lookup", {}, RECORD, "tools[0]"),
    Tool("stop", {}, None, "tools[1]"),
]


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize(
    ("name", "voice"), [*VOICES, ("harmony", HARMONY)], ids=lambda v: str(v)[:12]
)
def test_required_calls_of_each_family_parse_into_valid_calls(
    writer: Writer, name: str, voice: Voice, thinks: bool
) -> None:
    if thinks and name != "harmony":
        voice = Voice(voice.calls, True, REASONING[0])
    use = ToolUse(TOOLS, is_required=True)
    source = grammar_of(Answer(use=use), voice, {}, False)
    assert source
    num_ended = 0
    for seed in range(12):
        start = ""
        if thinks and voice.reasoning:
            start = f"{voice.reasoning.begin}hm{voice.reasoning.end}"
        text = writer.write(source.text, seed, start)
        if text is None:
            continue
        num_ended += 1
        parser = parser_of(voice, has_tools=True, is_thinking=False)
        assert parser
        pieces = [*parser.push(text), *parser.finish()]
        calls = [piece.name for piece in pieces if isinstance(piece, CallStart)]
        assert calls and set(calls) <= {"lookup", "stop"}, text
        assert sum(isinstance(piece, CallEnd) for piece in pieces) == len(calls)
        assert not any(isinstance(piece, Content) for piece in pieces), (text, pieces)
        assert any(isinstance(piece, Thought) for piece in pieces) <= (voice.reasoning is not None)
        for piece, arguments in collected(pieces):
            if piece == "lookup":
                jsonschema.validate(arguments, RECORD)
            else:
                assert arguments == {}
    assert num_ended > 6


def collected(pieces: list[Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, CallStart):
            found.append((piece.name, ""))
        elif hasattr(piece, "text") and found and type(piece).__name__ == "CallArguments":
            found[-1] = (found[-1][0], found[-1][1] + piece.text)
    return [(name, json.loads(text)) for name, text in found]


@pytest.mark.parametrize(("name", "voice"), VOICES, ids=lambda v: str(v)[:12])
def test_under_auto_a_call_once_begun_is_of_a_declared_tool(
    writer: Writer, name: str, voice: Voice
) -> None:
    form = voice.calls
    source = grammar_of(Answer(use=ToolUse(TOOLS)), voice, {}, False)
    assert source
    text = "" if form.only_at_start else "Let me see. "
    # Any text is allowed, and as a text it may end.
    constraint = writer.compiler.compile(source.text, "t").follow()
    for token in writer.model.tokenize("It is 4 < 5.\n", parse_special=False, add_bos=False):
        assert constraint.allows(token)
        constraint.accept(token)
    assert constraint.allows(2)  # <|im_end|>
    for seed in range(6):
        written = writer.write(source.text, seed, text + form.trigger)
        if written is None:
            continue
        parser = parser_of(voice, has_tools=True, is_thinking=False)
        assert parser
        pieces = [*parser.push(written), *parser.finish()]
        for called, arguments in collected(pieces):
            assert called in ("lookup", "stop")
            jsonschema.validate(arguments, RECORD if called == "lookup" else {"maxProperties": 0})
        assert any(isinstance(piece, CallStart) for piece in pieces), written
    constraint = writer.compiler.compile(source.text, "t").follow()
    begun = (
        text
        + (form.opening + form.before).split("{")[0]
        + ("{" if "{" in form.opening + form.before else "")
    )
    for token in writer.model.tokenize(begun, parse_special=False, add_bos=False):
        assert constraint.allows(token)
        constraint.accept(token)
    assert not constraint.allows(2), "a call that has begun can't just end"


def test_the_same_grammar_is_compiled_once(writer: Writer) -> None:
    source = "%llguidance {}\nstart: /[0-9]+/"
    assert writer.compiler.compile(source, "x") is writer.compiler.compile(source, "x")


def test_choices_of_one_grammar_go_their_own_ways(writer: Writer) -> None:
    grammar = writer.compiler.compile('%llguidance {}\nstart: "yes" | "no"', "x")
    first, second = grammar.follow(), grammar.follow()
    [yes] = writer.model.tokenize("yes", parse_special=False, add_bos=False)
    first.accept(yes)
    assert first.is_complete and not second.is_complete
    assert second.allows(yes)


def test_random_is_reproducible(writer: Writer) -> None:
    seed = random.randrange(2**32)
    assert writer.json(RECORD, seed) == writer.json(RECORD, seed)


# --- what a step costs, and whose a failure is ----------------------------------------------------

FOLLOWED = '%llguidance {"no_forcing": true}\n'


def spelled(writer: Writer, tokens: list[int]) -> str:
    return b"".join(map(writer.spelled, tokens)).decode()


@pytest.mark.parametrize(
    "grammar",
    [
        'start: x ""+ start\nx: "a"+',  # never ends
        "start: /a{1000000000}/",
        f'start: %json {{"const": "{"a" * 400_000}"}}',
        'start: %json {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "minItems": 1, '
        '"items": {"$ref": "#/$defs/a"}}}, "x-guidance": {"whitespace_flexible": false}}',
        'start: %json {"type": "array", "minItems": 1000000, "items": {"const": "aaaa"}}',
    ],
)
def test_text_that_is_forced_without_end_comes_in_steps(writer: Writer, grammar: str) -> None:
    constraint = writer.compiler.compile(FOLLOWED + grammar, "x").follow()
    for _ in range(4):
        row = np.zeros(writer.model.num_vocab, np.float32)
        constraint.forbid(row)
        constraint.accept(int(row.argmax()))
        forced = constraint.forced()
        assert len(spelled(writer, forced)) <= MAX_FORCED_BYTES
        for token in forced:
            assert constraint.allows(token)
            constraint.accept(token)


def test_forced_text_is_cut_as_the_tokenizer_cuts_it(writer: Writer) -> None:
    sentence = "The quick brown fox jumps over the lazy dog, and nobody asks why."
    expected = writer.model.tokenize(sentence, parse_special=False, add_bos=False)
    constraint = writer.compiler.compile(f'{FOLLOWED}start: "{sentence}"', "x").follow()
    tokens: list[int] = []
    num_draws = 0
    while not constraint.is_complete:
        num_draws += 1
        tokens.append(expected[len(tokens)])
        constraint.accept(tokens[-1])
        for token in constraint.forced():
            constraint.accept(token)
            tokens.append(token)
    assert tokens == expected and num_draws <= 3


def test_one_who_fails_leaves_the_others_of_a_grammar_alone(writer: Writer) -> None:
    source = FOLLOWED + "start: /(?s:.*)a(?s:.{200})b/"
    grammar = writer.compiler.compile(source, "x")
    first, second = grammar.follow(), grammar.follow()
    words = writer.model.tokenize("a tree and a house ", parse_special=False, add_bos=False)
    for token in words:
        second.accept(token)
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidRequest, match=r"too many states|too long"):
        for _ in range(1000):
            row = rng.normal(0, 3, writer.model.num_vocab).astype(np.float32)
            first.forbid(row)
            first.accept(int(row.argmax()))
    for token in words:
        assert second.allows(token)
        second.accept(token)
    again = writer.compiler.compile(source, "x")
    assert again is not grammar
    again.follow().accept(words[0])


@pytest.mark.parametrize(
    "source",
    [
        'start: %json {"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]}',
        'start: %json {"type": "integer", "multipleOf": 9999991}',
        "start: /(((a{1,300}b?){1,300}c?){1,300}d?){1,300}/ /x{3000}y?/",
    ],
)
def test_what_takes_too_long_is_ended_in_its_child(writer: Writer, source: str) -> None:
    begun_s = time.thread_time()
    try:
        writer.compiler.compile(FOLLOWED + source, "x")
    except InvalidRequest as error:
        assert error.param == "x"
    assert time.thread_time() - begun_s < 3  # of this thread; the child has a budget of its own
    assert writer.compiler.problem(FOLLOWED + 'start: "a"', is_plain=False) is None


def test_the_cache_is_bounded_by_the_work_in_it(writer: Writer) -> None:
    compiler = GrammarCompiler(lambda: writer.model.grammar_tokenizer())
    first = compiler.compile(FOLLOWED + 'start: "first"', "x", is_plain=True)
    assert compiler.compile(FOLLOWED + 'start: "first"', "x") is first
    first.work_s += MAX_CACHED_S
    compiler.compile(FOLLOWED + 'start: "second"', "x", is_plain=True)
    assert not compiler.knows(FOLLOWED + 'start: "first"')
    assert compiler.knows(FOLLOWED + 'start: "second"')
    compiler.close()


@pytest.mark.parametrize("greedy", [False, True])
def test_free_json_has_no_name_twice_in_an_object(writer: Writer, greedy: bool) -> None:
    source = grammar_of(Answer(AnswerFormat("json", "s", ANY_OBJECT)), None, {}, False)
    assert source and source.free_json == b""
    grammar = writer.compiler.compile(source.text, "s", is_plain=True, free_json=source.free_json)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    constraint = grammar.follow()
    begun = '{"a": 1, "ab": 2, "'
    for token in writer.model.tokenize(begun, parse_special=False, add_bos=False):
        constraint.accept(token)
    text = begun
    # A writer who wants nothing but the name again, and then the end.
    for wish in ("a", '"', "b", '"', "c", '"', " ", "1", "}"):
        [token] = writer.model.tokenize(wish, parse_special=False, add_bos=False)
        row = np.zeros(writer.model.num_vocab, np.float32)
        row[token] = 1
        if greedy and not constraint.allows(token):
            continue
        constraint.forbid(row)
        if row[token] == 1:
            text += spelled(writer, [token, *constraint_after(constraint, token)])
    assert json.loads(text, object_pairs_hook=unique) == {"a": 1, "ab": 2, "abc": 1}


@pytest.mark.parametrize(
    "begun",
    [
        '{"a": 1, "": 2, "',
        '{"a": ["' + "a creature of the night, " * 50,
        "[" * 64,
        '{"a": ' + "[" * 63 + "1, ",
        '{"a": [' + '"a creature of the night", ' * 50,
        '{"a": [{"b": ' * 3 + "[" + '"a creature of the night", ' * 50 + '"',
        '{"a": [' + '"a creature of the night", ' * 50 + '"\\',
    ],
)
def test_a_token_is_kept_from_a_loop_alone_as_among_all(writer: Writer, begun: str) -> None:
    source = grammar_of(Answer(AnswerFormat("json", "s", ANY_OBJECT)), None, {}, False)
    assert source
    grammar = writer.compiler.compile(source.text, "s", is_plain=True, free_json=source.free_json)
    constraint = grammar.follow()
    assert constraint._loops
    constraint._loops.push(begun.encode())
    looping = set(map(int, constraint._looping()))
    assert looping
    alone = {token for token in range(grammar.vocabulary.size) if constraint._is_loop(token)}
    assert alone == looping


def constraint_after(constraint: Constraint, token: int) -> list[int]:
    """Accepts the token and what it forces, which it returns."""
    constraint.accept(token)
    forced = constraint.forced()
    for each in forced:
        constraint.accept(each)
    return forced
