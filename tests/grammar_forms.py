"""What grammars of calls accept, over a small vocabulary."""

import functools
import re
from collections.abc import Iterable, Mapping

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from written_calls import FORMS

from localinfra.chat.answer import Answer, GrammarSource, Tool, ToolUse, grammar_of
from localinfra.chat.formats.form import CallForm, ReasoningMarks, Voice
from localinfra.chat.messages import Json
from localinfra.engine.grammar.probe import LIMITS

CONTROL = ["<eos>", "<think>", "</think>", "<tool_call>", "</tool_call>", '<|"|>']
CONTROL += ["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|open|>", "<|close|>"]
CONTROL += ["<|sep|>", "<|eom|>", "<|start|>", "<|message|>", "<|tool_call>", "<tool_call|>"]
CONTROL += [
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "<|tool_call_begin|>",
    "｜DSML｜",
    "<|end|>",
]
IN_TEXT = [FORMS[shape] for shape in ("json", "lines", "nested", "json-in-ascii")]  # no tokens
PIECES = [
    "</",
    "parameter",
    ">\n",
    "\n</",
    "5\n",
    "5<",
    '", "',
    "}}",
    "e<",
    "',",
    ")]",
    "\n<",
    "[{",
]
SPELLINGS = [*(bytes([byte]) for byte in range(256)), *map(str.encode, PIECES + CONTROL)]
IDS_OF_CONTROL = {text: 256 + len(PIECES) + at for at, text in enumerate(CONTROL)}


class Tokens:
    """As llguidance asks for a tokenizer: bytes, pieces of several, and control tokens."""

    eos_token_id = bos_token_id = IDS_OF_CONTROL["<eos>"]
    tokens = SPELLINGS
    special_token_ids = tuple(IDS_OF_CONTROL.values())

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@functools.cache
def tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(Tokens()), n_vocab=len(SPELLINGS))


def tokens_of(text: str, tokens: Mapping[str, int], *, in_bytes: bool) -> list[int]:
    """`tokens`: control tokens. `in_bytes`: not in the longest pieces."""
    pieces = {} if in_bytes else {piece: 256 + at for at, piece in enumerate(PIECES)}
    found = split_at(tokens, text)
    parts = [
        part for each in found for part in ([each] if each in tokens else split_at(pieces, each))
    ]
    ids = {**pieces, **tokens}
    return [id for part in parts for id in ([ids[part]] if part in ids else list(part.encode()))]


def split_at(marks: Iterable[str], text: str) -> list[str]:
    longest_first = sorted(marks, key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})", text)


class Accepting:
    """A compiled grammar. `tokens`: control tokens."""

    def __init__(self, source: GrammarSource, tokens: Mapping[str, int]):
        self.source, self.tokens = source, tokens
        limits = LLParserLimits(**LIMITS)
        self.matcher = LLMatcher(tokenizer(), source.text, log_level=0, limits=limits)
        assert not self.matcher.is_error(), f"{self.matcher.get_error()}\n{source.text}"

    def takes(self, text: str) -> bool:
        """Whether the whole text is an answer, however it is cut into tokens."""
        results = {self._takes(text, in_bytes) for in_bytes in (True, False)}
        assert len(results) == 1, text
        return results.pop()

    def _takes(self, text: str, in_bytes: bool) -> bool:
        walker = self.matcher.deep_copy()
        for token in tokens_of(text, self.tokens, in_bytes=in_bytes):
            if walker.is_stopped() or walker.validate_tokens([token]) != 1:
                return False
            walker.consume_token(token)
        assert not walker.is_error(), walker.get_error()
        return bool(walker.is_accepting())

    def rest_of(self, text: str) -> str | None:
        """What follows the longest beginning that is an answer; None if there is none."""
        walker = self.matcher.deep_copy()
        data, end = text.encode(), None
        for at in range(len(data) + 1):
            if walker.is_accepting():
                end = at
            if at == len(data) or walker.is_stopped() or walker.validate_tokens([data[at]]) != 1:
                break
            walker.consume_token(data[at])
        return None if end is None else data[end:].decode(errors="replace")


def accepting(
    form: CallForm,
    *schemas: dict[str, Json],
    is_required: bool = True,
    is_parallel: bool = True,
    is_strict: bool = False,
    reasoning: ReasoningMarks | None = None,
) -> Accepting:
    """Of the functions f0, f1 … with these parameters."""
    tools = [
        Tool(f"f{at}", {}, schema, f"t{at}", is_strict=is_strict)
        for at, schema in enumerate(schemas)
    ]
    use = ToolUse(tools, is_required=is_required, is_parallel=is_parallel)
    tokens = {} if form in IN_TEXT else IDS_OF_CONTROL
    source = grammar_of(Answer(use=use), Voice(form, True, reasoning), tokens, False)
    assert source
    return Accepting(source, tokens)
