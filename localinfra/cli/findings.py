"""What `localinfra doctor` finds, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# hint: could be better; failed: wanted but does not work, the rest can be served;
# problem: something needed for serving fails
Level = Literal["ok", "hint", "failed", "problem"]
MARKS: dict[Level, str] = {
    "ok": "  ok     ",
    "hint": "  hint   ",
    "failed": "  FAILED ",
    "problem": "  PROBLEM",
}


@dataclass(frozen=True)
class Finding:
    level: Level
    text: str
    command: str = ""  # what to run about it


def as_text(found: Sequence[Finding]) -> str:
    lines = []
    for finding in found:
        lines.append(f"{MARKS[finding.level]}  {finding.text}")
        if finding.command:
            lines.append(f"{'':13}$ {finding.command}")
    return "\n".join(lines)
