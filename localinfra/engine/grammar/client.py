"""Grammars and regexes as clients write them → what llguidance reads, within bounds. Pure."""

import re
from collections.abc import Mapping

from localinfra.engine.grammar.gbnf import MAX_RULES, GbnfError
from localinfra.engine.grammar.gbnf_lark import gbnf_to_lark
from localinfra.errors import InvalidRequest

# A regex of 30,000 characters takes llguidance seconds.
MAX_GRAMMAR_CHARS = 32 * 1024
MAX_COLONS = MAX_RULES  # of Lark: at least one a rule
MAX_INTERSECTIONS = 8  # it tries all subsets of what a text has to match at once
MAX_REGEX_CHARS = 4000

GBNF_RULE = re.compile(r"(?m)^[ \t]*+[A-Za-z0-9_-]++\s*+::=")
LARK_START = re.compile(r"(?m)^[ \t]*+(%llguidance\b|\??start\b[^:\n]*:)")


def as_lark(text: str, param: str, tokens: Mapping[str, int]) -> str:
    """A grammar in GBNF or Lark → in Lark. `tokens` are the control tokens by their spellings.
    Raises InvalidRequest."""
    if len(text) > MAX_GRAMMAR_CHARS:
        raise InvalidRequest(
            f"The grammar has {len(text)} characters; at most {MAX_GRAMMAR_CHARS} can be used.",
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
            "The grammar begins nowhere: GBNF needs a rule `root ::= ...`, Lark one `start: ...`.",
            param,
        )
    if "%json" in text:
        raise InvalidRequest(
            "A grammar can't contain %json here: send the schema as json_schema.", param
        )
    if text.count("&") > MAX_INTERSECTIONS:
        raise InvalidRequest(
            f"A grammar can contain & at most {MAX_INTERSECTIONS} times; join what it combines.",
            param,
        )
    if text.count(":") > MAX_COLONS:
        raise InvalidRequest(f"The grammar has more than {MAX_COLONS} rules or colons.", param)


def as_regex(text: str, param: str) -> str:
    """The same, checked for its size. Raises InvalidRequest."""
    if len(text) > MAX_REGEX_CHARS:
        raise InvalidRequest(
            f"The regex has {len(text)} characters; at most {MAX_REGEX_CHARS} can be used.", param
        )
    return text
