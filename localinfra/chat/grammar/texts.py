"""The regular expressions, in llguidance's Lark, of texts that a schema allows. Pure."""

import re

from localinfra.chat.grammar.lark import ANY_TEXT, regex
from localinfra.chat.messages import Json

# Of texts as they are; in JSON, llguidance has its own.
DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"
TIME = rf"{CLOCK}:[0-5][0-9](\.[0-9]{{1,9}})?([Zz]|[+-]{CLOCK})"
OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
ATOM = "[A-Za-z0-9!#$%&'*+=?^_`{|}~/-]+"
FORMATS = {
    "date": DATE,
    "time": TIME,
    "date-time": f"{DATE}[Tt]{TIME}",
    "ipv4": rf"({OCTET}\.){{3}}{OCTET}",
    "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "hostname": rf"{LABEL}(\.{LABEL})*",
    "email": rf"{ATOM}(\.{ATOM})*@{LABEL}(\.{LABEL})*",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-Z_a-z~\[\]]+",
}
ANY_CHARACTER = "(?s:.)"
CLASSES = {"d": "[0-9]", "D": "[^0-9]", "w": "[0-9a-zA-Z_]", "W": "[^0-9a-zA-Z_]"}


def text_expression(schema: dict[str, Json], unit: str = ANY_CHARACTER) -> str:
    """Of texts that are valid by `pattern`, `format` and lengths. `unit`: the regex of a character
    as it is written.

    Formats without a regular expression here have no effect.
    """
    parts = []
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if least or most is not None:
        parts.append(f"/{unit}{{{least},{'' if most is None else most}}}/")
    elif unit != ANY_CHARACTER:
        parts.append(f"/{unit}*/")
    if isinstance(pattern := schema.get("pattern"), str):
        parts.append(regex(searched(pattern)))
    if (name := schema.get("format")) in FORMATS:
        parts.append(regex(FORMATS[str(name)]))
    return " & ".join(parts) or ANY_TEXT


def searched(pattern: str) -> str:
    """The regex of whole texts in which JSON Schema's `pattern` is found."""
    found = []
    for part in alternatives(pattern):
        is_first, is_last = part.startswith("^"), re.search(r"(?<!\\)(\\\\)*\$$", part) is not None
        inner = part[is_first : len(part) - is_last]
        around = ("" if is_first else "(?s:.)*", "" if is_last else "(?s:.)*")
        found.append(f"{around[0]}(?:{ascii_classes(inner)}){around[1]}")
    return "|".join(found)


def alternatives(pattern: str) -> list[str]:
    """The parts between its outermost |."""
    parts, begun, depth, in_class = [], 0, 0, False
    for sign in re.finditer(r"\\.|[\[\]()|]", pattern, re.DOTALL):
        if in_class:
            in_class = sign[0] != "]"
        elif sign[0] == "[":
            in_class = True
        elif sign[0] == "|" and not depth:
            parts.append(pattern[begun : sign.start()])
            begun = sign.end()
        else:
            depth += (sign[0] == "(") - (sign[0] == ")")
    return [*parts, pattern[begun:]]


def ascii_classes(pattern: str) -> str:
    r"""\d and \w mean ASCII in JSON Schema, and Unicode in Rust."""
    return re.sub(r"\\(.)", lambda found: CLASSES.get(found[1], found[0]), pattern, flags=re.DOTALL)
