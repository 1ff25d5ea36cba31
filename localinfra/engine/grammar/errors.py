"""What llguidance says of a grammar → what a client can do about its own text. Pure."""

import re

from localinfra.errors import InvalidRequest

MAX_CHARS = 500
PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ?")
# The text around a place, with a mark below; a client's own place is told by its numbers.
EXCERPT = re.compile(r"(?m)^(?: *\d+ \| .*| *\^+ *|<non-verbose/>)$")
REGEX = re.compile(r"(?s)regex parse error:\s*(.*?)\n\s*\^.*?\nerror: ([^\n]*)")
SCHEMA = "failed to compile JSON schema: "

# Its own words, and what is to be done.
EXPLAINED = {
    "NoExtensionBias": "no text at all can follow its rules to an end: look for a rule that only "
    "refers to itself, or for parts joined by & that exclude each other",
    "lexer error": "here is a quote without its partner, or a sign that is none of Lark's: text is "
    "written in double quotes, a regex between slashes",
    "too many items": "too many ways to read a text are open at once: make it less ambiguous",
    "initial lexer configuration (grammar) too big": "its texts and patterns are too large: use "
    "shorter ones, or smaller counts",
    "no start rule found": "no rule is named start, with which the text begins",
    "Unsatisfiable schema": "no value is valid by this schema",
}


def not_compiled(problem: str, source: str, param: str) -> InvalidRequest:
    """`source` as it was compiled: where it holds a client's whole grammar, places are in that."""
    told = reason(problem, has_places=source.startswith('{"grammars"'))
    return InvalidRequest(f"This can't be made a constraint: {told}.", param)


def reason(problem: str, *, has_places: bool = False) -> str:
    """In one line, without what is ours of the source."""
    text, place = problem.strip(), ""
    if found := PLACE.match(text):
        text = text[found.end() :]
        place = f"line {found[1]}, column {found[2]}: " if has_places else ""
    if found := REGEX.search(text):
        told = f"the regex {' '.join(found[1].split())[:200]} can't be used: {found[2]}"
    else:
        told = " ".join(EXCERPT.sub("", text).removeprefix(SCHEMA).split())
    for words, explained in EXPLAINED.items():
        if told.startswith(words):
            rest = told.removeprefix(words).strip(": ()")
            told = f"{explained}{f' ({rest})' if rest else ''}"
            break
    return (place + (told or "no reason was given"))[:MAX_CHARS].rstrip(".")
