"""What the parts find, row by row: written to a file at once, so that a part that is killed leaves
what it had."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

NO_GPU = "not run: needs an NVIDIA GPU"


@dataclass(frozen=True)
class Row:
    what: str
    found: str  # a figure with its unit, "passed", "FAILED: why" or "not run: why"
    goal: str = ""
    part: str = ""

    @property
    def is_failed(self) -> bool:
        return self.found.startswith("FAILED")


class Sheet:
    """The rows of one part."""

    def __init__(self, path: Path, part: str):
        self._path, self._part = path, part
        path.write_text("")

    def add(self, what: str, found: str, goal: str = "") -> None:
        row = Row(what, found, goal, self._part)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(f"  {what}: {found}" + (f" (goal: {goal})" if goal else ""), flush=True)


def read_rows(path: Path) -> list[Row]:
    """Those of a part, also of one that was killed while it wrote."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Row(**json.loads(line)) for line in lines]


def as_table(rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = ["| part | what | found | goal |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.part} | {row.what} | {row.found} | {row.goal} |" for row in rows]
    return "\n".join(lines)
