"""Schemas, each with a value that is valid by it."""

from collections.abc import Iterator

from hypothesis import strategies as st

from localinfra.chat.formats.form import KEY, CallForm
from localinfra.chat.messages import Json

Pair = tuple[dict[str, Json], Json]  # a schema, and a valid value

NAMES = st.sampled_from(["a", "b", "path", "Zed", "_k"])
# What other notations would take for something else, or have to escape.
PHRASES = ["true", "None", "null", "12", "-0.5", "[1]", "{}", "it's", 'say "x"', 'it\'s "x"', "\n"]
PHRASES += ["  x ", "<b>", "</parameter>", "```", "\\n", "\\u00e9", "a&b", "x=1, y=2"]
TEXTS = st.text(st.sampled_from("ab1 '\"\\\n<>{}[],:=()é😀"), max_size=8) | st.sampled_from(PHRASES)
NULLABLE: dict[str, Json] = {"type": ["boolean", "null"]}


def is_no_null(text: str) -> bool:
    """Without quotes, a text could be one."""
    return text.strip() not in ("null", "None", "")


def scalars() -> st.SearchStrategy[Pair]:
    return st.one_of(
        TEXTS.map(lambda text: ({"type": "string"}, text)),
        TEXTS.map(lambda text: ({"type": "string"}, text)),
        TEXTS.filter(is_no_null).map(lambda text: ({"type": ["string", "null"]}, text)),
        TEXTS.map(lambda text: ({"type": "string", "enum": [text, "x"]}, text)),
        TEXTS.map(lambda text: ({"type": "string", "maxLength": len(text)}, text)),
        st.integers(-99, 99).map(lambda n: ({"type": "integer", "minimum": n}, n)),
        st.integers(-99, 99).map(lambda n: ({"type": "number"}, n / 4)),
        st.booleans().map(lambda flag: ({"type": "boolean"}, flag)),
        st.sampled_from([True, None]).map(lambda flag: (NULLABLE, flag)),
    )


def objects(values: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    """Some of the properties are optional, and may be absent."""

    def made(parts: dict[str, tuple[Pair, bool, bool]]) -> Pair:
        properties: dict[str, Json] = {name: pair[0] for name, (pair, _, _) in parts.items()}
        required: list[Json] = [name for name, (_, is_required, _) in parts.items() if is_required]
        value = {
            name: pair[1]
            for name, (pair, is_required, is_there) in parts.items()
            if is_required or is_there
        }
        return {"type": "object", "properties": properties, "required": required}, value

    return st.dictionaries(NAMES, st.tuples(values, st.booleans(), st.booleans()), max_size=4).map(
        made
    )


def lists(values: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    pairs = st.tuples(values, st.integers(0, 3))
    return pairs.map(lambda pair: ({"type": "array", "items": pair[0][0]}, [pair[0][1]] * pair[1]))


# Arguments of a function.
ARGUMENTS = objects(
    st.recursive(scalars(), lambda inner: lists(inner) | objects(inner), max_leaves=6)
)


def is_ambiguous(form: CallForm, value: Json) -> bool:
    """Whether a text has what ends it in this form, or begins another argument."""
    members = form.members
    if members is None:
        return False
    if members.after:
        marks = [members.after, members.before, form.after]
    elif members.literals == "bare":
        marks = [members.quotes[1]]
    else:
        ends = members.separator[:1] + form.after[:1]
        marks = [] if members.has_escapes else [members.quotes[1] + end for end in ends]
    beginnings = [mark.partition(KEY)[0].strip() for mark in marks]
    return any(mark in text for text in texts_in(value) for mark in beginnings if mark)


def texts_in(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        yield from texts_in(each)


def has_null(value: Json) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(map(has_null, inner))
