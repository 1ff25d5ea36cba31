"""The parts that keep a tool's schema from compiling are found, and only they are left out."""

import pytest

from localinfra.chat.answer import GrammarSource, Tool
from localinfra.chat.messages import Json
from localinfra.chat.relaxing import ANYTHING, Relaxing
from localinfra.chat.schema.prepared import Hard, Leniency, Waiver


def problem(source: GrammarSource) -> str | None:
    """Like a compiler that refuses text with BAD in it."""
    return "BAD is not known" if "BAD" in source.text else None


def tool(**parameters: Json) -> Tool:
    return Tool("f", {}, {"type": "object", **parameters}, "p")


PATTERN: Json = {"type": "string", "pattern": "BAD"}
PLAIN: Json = {"type": "string", "pattern": "good"}


@pytest.mark.parametrize(
    ("found", "paths"),
    [
        (tool(properties={"a": PLAIN}), []),
        (tool(properties={"a": PATTERN, "b": PLAIN}), ["p.properties.a.pattern"]),
        (
            tool(properties={"a": {"items": {"anyOf": [PLAIN, PATTERN]}}}),
            ["p.properties.a.items.anyOf[1].pattern"],
        ),
        (tool(properties={"a": {"enum": ["BAD"]}, "b": PLAIN}), ["p.properties.a"]),
        (
            tool(properties={"a": {"enum": ["BAD"]}, "b": PATTERN}),
            ["p.properties.a", "p.properties.b.pattern"],
        ),
        (tool(properties={"b": PLAIN}, required=["BAD"]), ["p.required"]),
    ],
    ids=range(6),
)
def test_only_the_part_at_fault_is_waived(found: Tool, paths: list[str]) -> None:
    assert Relaxing(problem).waiver(found) == Waiver(Leniency.UNKNOWN, frozenset(paths))


def test_where_no_part_is_at_fault_any_object_will_do() -> None:
    large = tool(properties={f"p{n}": PLAIN for n in range(5000)})
    assert Relaxing(problem).waiver(large) == ANYTHING
    assert Relaxing(lambda source: "never").waiver(tool(properties={"a": PLAIN})) == ANYTHING


def test_keywords_at_fault_are_reported_by_their_paths() -> None:
    hard = [Hard("a", "pattern", "good"), Hard("b", "pattern", "BAD"), Hard("c", "multipleOf", 3)]
    assert Relaxing(problem).faults(hard) == {"b": "BAD is not known"}
    named: Json = {"BAD": {"type": "null"}}
    assert Relaxing(problem).faults([Hard("d", "patternProperties", named)]).keys() == {"d"}
    long = Hard("e", "pattern", "x" * 9000)
    assert "2000 characters" in Relaxing(problem).faults([long])["e"]
