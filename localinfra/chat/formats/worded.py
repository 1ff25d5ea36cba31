"""Recognizes the form of calls that a template describes to the model, but doesn't write itself."""

import re

from localinfra.chat.formats.form import NAME, CallForm

# "respond only with <|tool_call|> followed by a JSON list of tools used"
LISTED = re.compile(
    r"(<\|?\w{0,40}tool_?calls?\w{0,40}\|?>)[^<\n]{0,40}\bJSON (?:list|array)\b", re.I
)
MAX_READ_CHARS = 65_536  # of an instruction; published ones have up to 1500


def worded_form(instruction: str) -> CallForm | None:
    """`instruction`: what the template tells the model before the conversation."""
    found = LISTED.search(instruction, 0, MAX_READ_CHARS)
    if not found:
        return None
    return CallForm(
        trigger=found[1],
        opening=f"{found[1]}[",
        before=f'{{"name": "{NAME}", "arguments": ',
        after="}",
        separator=", ",
        closing="]",
    )
