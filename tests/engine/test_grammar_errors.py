"""Errors in a grammar or schema refer to the client's own text."""

import msgspec
import pytest

from localinfra.chat.answer import Answer, AnswerFormat, grammar_of
from localinfra.engine.grammar.errors import reason
from localinfra.engine.grammar.prober import Prober
from localinfra.errors import InvalidRequest

WRONG: list[tuple[AnswerFormat, str]] = [
    (AnswerFormat("regex", "p", text="a(?!b)"), r"the regex a\(\?!b\) is not valid: look-around"),
    (AnswerFormat("regex", "p", text=r"(a)\1"), "backreferences are not supported"),
    (AnswerFormat("regex", "p", text="(a"), r"the regex \(a is not valid: unclosed group"),
    (AnswerFormat("lark", "p", text="start: x\nx: y"), 'line 2, column 4: unknown name: "y"'),
    (AnswerFormat("lark", "p", text='start: "a" "b'), "column 14: there is an unclosed quote"),
    (AnswerFormat("lark", "p", text="start: A\nA: B\nB: A"), 'line 3, .*in token "A"'),
    (AnswerFormat("lark", "p", text="start: A\nA: /[z-a]/"), r"line 2, .*the regex \[z-a\]"),
    (AnswerFormat("lark", "p", text="start: start"), "no finite text matches it"),
    (
        AnswerFormat("json", "p", {"type": "string", "pattern": "(?<=a)b"}),
        r"\(\?<=a\)b is not valid",
    ),
    (
        AnswerFormat("json", "p", {"type": "string", "minLength": 3, "maxLength": 1}),
        r"no value is valid for this schema \(minLength \(3\) is greater than maxLength \(1",
    ),
]


@pytest.mark.parametrize(("wanted", "problem"), WRONG, ids=range(len(WRONG)))
def test_the_reason_leaves_out_generated_source(wanted: AnswerFormat, problem: str) -> None:
    source = grammar_of(Answer(wanted), None, {}, False)
    assert source
    prober = Prober()
    with pytest.raises(InvalidRequest, match=problem) as caught:
        prober.check(source.text, "p")
    prober.close()
    message = str(caught.value)
    assert message.startswith("This grammar or schema can't be used: ")
    assert "\n" not in message and "llguidance" not in message and "NoExtension" not in message
    assert "no_forcing" not in msgspec.json.encode(message).decode()


def test_long_reasons_are_cut() -> None:
    assert reason("x" * 9000) == "x" * 500
    assert reason("") == "no reason was given"


def test_a_grammar_with_too_many_parts_says_what_to_send_less_of() -> None:
    panic = "panic: assertion failed: grammar.symbols.len() < u16::MAX as usize - 10\n<backtrace>"
    assert reason(panic).startswith("it has too many parts: send fewer tools, or simpler schemas")
