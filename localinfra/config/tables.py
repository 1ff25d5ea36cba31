"""A TOML table → a frozen struct, or a ConfigError naming each wrong key and what it expects.

Knows nothing of servers or models: the structs carry the rules, as msgspec annotations.
`Meta(description=...)` describes a rule in messages where numbers can't, and
`Meta(extra={"secret": True})` keeps a value out of them.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import inspect

from localinfra.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)
Hook = Callable[[type, Any], Any]  # msgspec's dec_hook: a custom type and its raw value → the value


def decode(raw: Mapping[str, object], into: type[S], where: str, hook: Hook | None = None) -> S:
    """Decodes one table; `where` is its place in messages, such as `models.toml: [server]`.

    Raises ConfigError with a line for each wrong key. `hook` raises ValueError with a message for
    users.
    """
    try:
        return msgspec.convert(raw, into, dec_hook=hook)
    except msgspec.ValidationError as error:
        found = list(problems(raw, into, hook)) or [str(error)]
        raise ConfigError("\n".join(f"{where} {problem}" for problem in found)) from None


def problems(
    raw: Mapping[str, object], into: type[msgspec.Struct], hook: Hook | None, prefix: str = ""
) -> Iterator[str]:
    """Yields `key: what is wrong` for each key of `raw` that does not fit `into`."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(into)}
    for key in raw:
        if key not in fields and key != into.__struct_config__.tag_field:
            yield f"{prefix}{key}: unknown key; {suggestion(key, fields)}"
    for key, field in fields.items():
        if key in raw:
            yield from value_problems(raw[key], field.type, hook, prefix + key)
        elif field.required:
            yield f"{prefix}{key}: missing; expected {expected(inspect.type_info(field.type))}"


def value_problems(raw: object, annotation: Any, hook: Hook | None, key: str) -> Iterator[str]:
    kind = inspect.type_info(annotation)
    match raw, kind:
        case dict(), inspect.StructType():
            yield from problems(raw, kind.cls, hook, f"{key}.")
        case list(), inspect.VarTupleType():
            item = get_args(annotation)[0]  # of tuple[item, ...]
            for index, element in enumerate(raw):
                yield from value_problems(element, item, hook, f"{key}[{index}]")
        case _:
            try:
                msgspec.convert(raw, annotation, dec_hook=hook)
            except msgspec.ValidationError as error:
                if is_custom(kind):
                    yield f"{key}: {error}"  # the hook's own words
                else:
                    shown = "" if is_secret(kind) else f", got {toml(raw)}"
                    yield f"{key}: expected {expected(kind)}{shown}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns `did you mean ...?` for a misspelt word, or else lists the known words."""
    close = close_matches(word, known)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def close_matches(word: str, known: Iterable[str]) -> list[str]:
    """Returns up to three known words like `word`, ignoring case, best first."""
    by_folded = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), by_folded, n=3, cutoff=0.6)
    return [by_folded[name] for name in found]


def expected(kind: inspect.Type) -> str:
    """Describes in words what a type accepts: `an integer from 1 to 64`."""
    match kind:
        case inspect.Metadata(extra_json_schema={"description": str(words)}):
            return words
        case inspect.Metadata():
            return expected(kind.type)
        case inspect.UnionType():
            return either(expected(o) for o in kind.types if not isinstance(o, inspect.NoneType))
        case inspect.LiteralType():
            return either(toml(value) for value in kind.values)
        case inspect.IntType():
            return f"an integer{bounds(kind)}"
        case inspect.FloatType():
            return f"a number{bounds(kind)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "a string"
        case inspect.VarTupleType():
            return f"a list, each {expected(kind.item_type)}"
        case inspect.DictType():
            return f"a table, each value {expected(kind.value_type)}"
        case inspect.StructType():
            return f"a table with the keys {', '.join(field.encode_name for field in kind.fields)}"
        case inspect.CustomType():
            return f"a {kind.cls.__name__.lower()}"
        case _:
            raise TypeError(f"no words for {kind}")  # a struct uses a type that TOML doesn't have


def either(options: Iterable[str]) -> str:
    *first, last = options
    return f"{', '.join(first)} or {last}" if first else last


def bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        limits = f" from {kind.ge} to {kind.le}"
    elif kind.ge is not None:
        limits = f" of at least {kind.ge}"
    elif kind.gt is not None:
        limits = f" above {kind.gt}" + (f", at most {kind.le}" if kind.le is not None else "")
    else:
        limits = ""
    return f"{limits}, a multiple of {kind.multiple_of}" if kind.multiple_of else limits


def is_custom(kind: inspect.Type) -> bool:
    """Whether a hook decodes this type or a member of this union."""
    match kind:
        case inspect.Metadata():
            return is_custom(kind.type)
        case inspect.UnionType():
            return any(is_custom(option) for option in kind.types)
        case _:
            return isinstance(kind, inspect.CustomType)


def is_secret(kind: inspect.Type) -> bool:
    match kind:
        case inspect.Metadata():
            return bool(kind.extra and kind.extra.get("secret")) or is_secret(kind.type)
        case inspect.VarTupleType():
            return is_secret(kind.item_type)
        case _:
            return False


def toml(value: object) -> str:
    """A value roughly as the file has it, cut to one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            text = f'"{value}"'
        case _:
            text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
