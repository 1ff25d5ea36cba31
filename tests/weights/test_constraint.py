"""Grammars over the real vocabulary: what a step of theirs costs, and whose a failure is."""

import json
import time
from typing import Any

import numpy as np
import pytest
from grammar_writer import Writer

from localinfra.chat.answer import ANY_OBJECT, Answer, AnswerFormat, grammar_of
from localinfra.engine.grammar.compiler import MAX_CACHED_S, GrammarCompiler
from localinfra.engine.grammar.constraint import MAX_FORCED_BYTES, Constraint
from localinfra.errors import InvalidRequest

FOLLOWED = '%llguidance {"no_forcing": true}\n'


def spelled(writer: Writer, tokens: list[int]) -> str:
    return b"".join(map(writer.spelled, tokens)).decode()


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


def test_a_fork_looks_ahead_and_leaves_the_choice_where_it_is(writer: Writer) -> None:
    constraint = writer.compiler.compile(f'{FOLLOWED}start: "one two three"', "x").follow()
    words = writer.model.tokenize("one two three", parse_special=False, add_bos=False)
    constraint.accept(words[0])
    fork = constraint.fork()
    for token in words[1:]:
        assert fork.allows(token)
        fork.accept(token)
    assert fork.is_complete and not constraint.is_complete
    assert constraint.allows(words[1]) and not constraint.allows(words[2])
    row = np.zeros(writer.model.num_vocab, np.float32)
    constraint.fork().forbid(row)
    assert row[words[1]] == 0 and row[words[2]] == -np.inf


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
