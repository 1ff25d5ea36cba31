"""Strange values, and JSON bodies damaged with them. Pure: all chance comes from a `Random`."""

import copy
import json
import string
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Json = Any  # as `json` reads it; a `Literal` may stand anywhere

# Numbers at and beyond the borders of the types that may hold them.
NUMBERS: tuple[Json, ...] = (
    *(0, 1, -1, 2, 3, 7, 127, 128, 129, 255, 256, 999, 1000, 4096, 65_535, 65_536, 1_000_001),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64),
    *(-2, -128, -(2**31), -(2**31) - 1, -(2**63), -(2**63) - 1, 10**30),
    *(0.0, -0.0, 0.5, 1.0, 1.5, 2.0, 1e-9, 5e-324, 1e-400, 1e300, -1e300, 3.4e38, 4.0000000000001),
)
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "<think>", "</think>", "[INST]")
CALLS = ('<tool_call>\n{"name": "f", "arguments": {', "<tool_call>", "</tool_call>", "[TOOL_CALLS]")
TEXTS = (
    *(
        "",
        " ",
        "\n",
        "\0",
        "a",
        "é",
        "漢字",
        "😀",
        "\u200d",
        "\ufeff",
        "\ufffd",
        "\u2028",
        "e\u0301",
    ),
    *(
        "\x7f",
        "\x1b[31m",
        "\r\n",
        "null",
        "true",
        "1",
        "1e400",
        "NaN",
        "{}",
        "[]",
        '"',
        "\\",
        "\\u",
    ),
    *("../../etc/passwd", "/", "//", "%00", "%2F..", "a/b:c", "http://127.0.0.1:1/", "file:///x"),
    *("data:image/png;base64,", "data:image/png;base64,AAAA", "data:,", "{{ 7 * 7 }}", "{% for %}"),
    *(
        "a" * 300,
        "word " * 700,
        "\u0301" * 500,
        "😀" * 200,
        "((((((((((a*)*)*)*)*)*)*)*)*)*",
        "x" * 70_000,
    ),
    *CONTROL,
    *CALLS,
)
NAMES = (
    "model",
    "messages",
    "stream",
    "n",
    "seed",
    "type",
    "unknown",
    "__proto__",
    "__class__",
    "$ref",
    "",
    "\0",
)
# Schemas, patterns and grammars that are hard or wrong.
SCHEMAS: tuple[Json, ...] = (
    *(
        True,
        False,
        {},
        {"type": "strange"},
        {"type": []},
        {"type": ["string", "null"]},
        {"enum": []},
    ),
    *({"enum": [None, 1, "a", [], {}]}, {"const": {"a": [1, None]}}, {"$ref": "#"}, {"not": {}}),
    *(
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"$ref": "http://127.0.0.1:1/"},
    ),
    {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#"}}, {}]}},
    },
    *(
        {"type": "string", "pattern": pattern}
        for pattern in ("(a+)+$", "[", "^\\d{1,9999}$", "(?=a)b", "\\p{L}{0,999}")
    ),
    *({"type": "string", "minLength": 9, "maxLength": 1}, {"type": "string", "maxLength": 10**9}),
    *(
        {"type": "integer", "minimum": 1e308},
        {"type": "number", "multipleOf": 0},
        {"type": "integer", "multipleOf": 1e-300},
    ),
    *({"type": "array", "minItems": 10**9}, {"type": "array", "items": [], "maxItems": -1}),
    *(
        {"type": "array", "prefixItems": [{"const": 1}], "items": False},
        {"allOf": [{"type": "string"}, {"type": "null"}]},
    ),
    {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "patternProperties": {"^(a|b)*c$": {}},
        "minProperties": 3,
        "maxProperties": 2,
    },
    {"type": "object", "properties": {name: {"type": "integer"} for name in string.ascii_letters}},
    *({"oneOf": [{"type": "object", "properties": {"k": {"const": at}}} for at in range(40)]},),
)
PATTERNS = (
    *(
        "(a+)+b",
        "[",
        "(",
        "a{1000}",
        "a{0,100000}",
        "(a{99}){99}",
        "\\d+",
        "^$",
        "",
        ".*",
        "(?i)x",
        "(?<=a)b",
    ),
    *(
        "\\b",
        "[^\\x00-\\x{10FFFF}]",
        "(a|b|c)*d",
        "\\u{110000}",
        "(?P<n>a)(?P=n)",
        "x" * 5000,
        "$^",
        "[z-a]",
    ),
)
GRAMMARS = (
    *("", "start: /a+/", 'root ::= "a" root', 'root ::= "a" | root', "root ::= root"),
    *('start: "a" start', "%", 'start: A\nA: "a"', "start: x", "root ::= [a-z]{1,99999}"),
    *('root ::= ("a"*)*', "start: /(/", "root ::= [^]", "%llguidance {}\nstart: @1"),
    *("start[capture]: /.*/", 'start: %json {"type": "strange"}', 'root ::= "\\xff"'),
)


class Literal(str):
    """Written into the JSON as it stands."""


LITERALS = tuple(
    map(
        Literal,
        (
            *(
                "1e400",
                "-1e400",
                "NaN",
                "-Infinity",
                "1" * 400,
                "-0",
                "0e0",
                "1E+2",
                "00",
                "0x10",
                "+1",
            ),
            *(
                '"\\ud800"',
                '"\\udc00x"',
                '"\\ud83d\\ude00"',
                '"\\u0000"',
                '"\\x"',
                '"\t"',
                "'a'",
                "undefined",
            ),
            *("tru", "nul", "", "{", "[1,]", '{"a":1,}', "{a:1}", "/* */ 1", "[" * 300 + "]" * 300),
            *(
                '{"a":' * 120 + "1" + "}" * 120,
                "[" * 30 + "]" * 30,
                '{"a":1,"a":[]}',
                "1.0000000000000000000001",
            ),
        ),
    )
)


def strange(draw: Random) -> Json:
    """A value of any type."""
    kind = draw.random()
    if kind < 0.25:
        return draw.choice(NUMBERS)
    if kind < 0.5:
        return draw.choice(TEXTS)
    if kind < 0.62:
        return draw.choice((None, True, False))
    if kind < 0.72:
        return draw.choice(LITERALS)
    if kind < 0.82:
        return copy.deepcopy(draw.choice(SCHEMAS))
    if kind < 0.87:
        return draw.choice((*PATTERNS, *GRAMMARS))
    if kind < 0.94:
        return [strange(draw) for _ in range(draw.choice((0, 1, 2, 3, 40)))]
    return {draw.choice((*NAMES, *TEXTS)): strange(draw) for _ in range(draw.randrange(4))}


# --- places of a body, and what is done to them ---------------------------------------------------

Place = tuple[Any, Any]  # a container, and a key or an index of it


def places(value: Json) -> Iterator[Place]:
    if isinstance(value, dict):
        for key in value:
            yield value, key
            yield from places(value[key])
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield value, at
            yield from places(item)


def damaged(body: Json, draw: Random, count: int) -> Json:
    """A copy of a body with so many places changed."""
    whole = [copy.deepcopy(body)]
    for _ in range(count):
        every = [place for place in places(whole) if place[0] is not whole]
        if not every or draw.random() < 0.01:
            whole[0] = strange(draw)
        else:
            # Names near the root are as likely as the many leaves below.
            shallow = [place for place in every if place[0] is whole[0]] or every
            container, key = draw.choice(draw.choice((every, every, shallow)))
            draw.choice(CHANGES)(container, key, draw)
    return whole[0]


def replace(container: Any, key: Any, draw: Random) -> None:
    container[key] = strange(draw)


def near(container: Any, key: Any, draw: Random) -> None:
    """Another value of the same type."""
    old = container[key]
    if isinstance(old, bool):
        container[key] = not old
    elif isinstance(old, int | float):
        change: Callable[[Any], Any] = draw.choice(
            (lambda n: -n, lambda n: n + 1, lambda n: n * 2, float, lambda n: n / 3, str)
        )
        container[key] = change(old)
    elif isinstance(old, str) and not isinstance(old, Literal):
        at = draw.randrange(len(old) + 1)
        container[key] = old[:at] + draw.choice(TEXTS[:60]) + old[at + draw.randrange(3) :]
    else:
        replace(container, key, draw)


def drop(container: Any, key: Any, draw: Random) -> None:
    del container[key]


def rename(container: Any, key: Any, draw: Random) -> None:
    if isinstance(container, dict):
        container[draw.choice((*NAMES, f"{key}x", str(key).upper()))] = container.pop(key)
    else:
        container.reverse()


def repeat(container: Any, key: Any, draw: Random) -> None:
    value = container[key]
    if isinstance(container, list):
        container[key:key] = [copy.deepcopy(value) for _ in range(draw.choice((1, 2, 30)))]
    else:
        container[key] = [copy.deepcopy(value) for _ in range(draw.choice((1, 2, 30)))]


def nest(container: Any, key: Any, draw: Random) -> None:
    for _ in range(draw.choice((1, 2, 40, 150))):
        container[key] = draw.choice(([container[key]], {"a": container[key]}))


def swap(container: Any, key: Any, draw: Random) -> None:
    """With another place of the same container."""
    other = draw.choice(list(container) if isinstance(container, dict) else range(len(container)))
    container[key], container[other] = container[other], container[key]


def add(container: Any, key: Any, draw: Random) -> None:
    if isinstance(container, dict):
        container[draw.choice((*NAMES, draw.choice(TEXTS)))] = strange(draw)
    else:
        container.append(strange(draw))


CHANGES = (replace, replace, replace, near, near, near, drop, drop, rename, repeat, nest, swap, add)


# --- JSON text ------------------------------------------------------------------------------------


class Twice(dict[str, Json]):
    """An object that is written with one of its names a second time."""

    def __init__(self, value: dict[str, Json], name: str, again: Json):
        super().__init__(value)
        self.name, self.again = name, again


def written(value: Json) -> str:
    """As JSON, with literals as they stand."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        members = [(name, each) for name, each in value.items()]
        if isinstance(value, Twice):
            members.append((value.name, value.again))
        return "{" + ", ".join(f"{json.dumps(k)}: {written(v)}" for k, v in members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


def twice(body: Json, draw: Random) -> Json:
    if not isinstance(body, dict) or not body:
        return body
    name = draw.choice(list(body))
    return Twice(body, name, draw.choice((copy.deepcopy(body[name]), strange(draw))))
