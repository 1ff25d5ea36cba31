"""Grammars and regexes as clients write them → llguidance's syntax, within limits. Pure."""

import re
from collections.abc import Mapping

from localinfra.engine.grammar.gbnf import MAX_RULES, GbnfError
from localinfra.engine.grammar.gbnf_lark import gbnf_to_lark
from localinfra.errors import InvalidRequest

# llguidance takes seconds for a regex of 30,000 characters.
MAX_GRAMMAR_CHARS = 32 * 1024
MAX_COLONS = MAX_RULES  # of Lark: each rule has at least one
MAX_INTERSECTIONS = 8  # llguidance tries all subsets of the intersected parts
MAX_REGEX_CHARS = 4000

GBNF_RULE = re.compile(r"(?m)^[ \t]*+[A-Za-z0-9_-]++\s*+::=")
LARK_START = re.compile(r"(?m)^[ \t]*+(%llguidance\b|\??start\b[^:\n]*:)")


def as_lark(text: str, param: str, tokens: Mapping[str, int]) -> str:
    """A grammar in GBNF or Lark → Lark. `tokens`: control tokens by spelling. Raises
    InvalidRequest."""
    if len(text) > MAX_GRAMMAR_CHARS:
        raise InvalidRequest(
            f"The grammar has {len(text)} characters; at most {MAX_GRAMMAR_CHARS} are allowed.",
            param,
        )
    if GBNF_RULE.search(text):
        try:
            return gbnf_to_lark(text, tokens)
        except GbnfError as error:
            raise InvalidRequest(f"The grammar can't be read as GBNF: {error}.", param) from None
    check_lark(text, param)
    return text


def check_lark(text: str, param: str) -> None:
    if not LARK_START.search(text):
        raise InvalidRequest(
            "The grammar has no start rule: GBNF needs `root ::= ...`, Lark needs `start: ...`.",
            param,
        )
    if "%json" in text:
        raise InvalidRequest(
            "%json is not allowed in a grammar: send the schema as json_schema.", param
        )
    if text.count("&") > MAX_INTERSECTIONS:
        raise InvalidRequest(
            f"A grammar can contain & at most {MAX_INTERSECTIONS} times; merge the parts it joins.",
            param,
        )
    if text.count(":") > MAX_COLONS:
        raise InvalidRequest(f"The grammar has more than {MAX_COLONS} rules or colons.", param)


def as_regex(text: str, param: str) -> str:
    """Returns the regex itself. Raises InvalidRequest if it is too long."""
    if len(text) > MAX_REGEX_CHARS:
        raise InvalidRequest(
            f"The regex has {len(text)} characters; at most {MAX_REGEX_CHARS} are allowed.", param
        )
    return text
