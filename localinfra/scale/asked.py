"""What a request asks for, as far as that decides who answers it. Pure, any thread.

Whatever is wrong with a body is for the replica to say.
"""

import contextlib
import enum
import re
from collections.abc import Mapping
from urllib.parse import parse_qs

import msgspec

from localinfra.api.generation.usage import ANSWER_LIMITS, expected_tokens
from localinfra.api.http.body import FIELDS, without_mark
from localinfra.api.http.form import FORM, header, json_of, parse_form
from localinfra.api.http.weight import Weight
from localinfra.errors import ApiError, BodyTooLarge
from localinfra.models.catalog import MAX_KNOWN_CHARS
from localinfra.models.entries import ImageModelEntry, ModelEntry, TextModelEntry
from localinfra.scale.prefixes import Fields, PromptStart, prefix_of

BASES = re.compile(r"/v1/openai(?=/)|/inference-api/openai/v1(?=/)|/anthropic/v1(?=/)")
MODEL_IN_PATH = re.compile(
    r"/v1/(?:engines|inference|models)/(?P<model>.+?)"
    r"(?P<verb>/(?:chat/completions|completions|embeddings|load|unload))?"
)
NO_MODELS = {"/v1/models/pull", "/v1/models/reload", "/api/pull", "/api/show"}  # none is used
KEPT = re.compile(r"/v1/(?:responses|requests|images/files)/(?P<id>[^/]+)(?:/\w+)?")
NOT_KEPT = {"/v1/responses/compact", "/v1/responses/input_tokens"}
# Routes whose prompts have prefixes worth keeping together.
PROMPTED = re.compile(
    r"/v1/(?:chat/completions|completions|messages|responses|inference/.+|"
    r"engines/.+/(?:chat/)?completions)|/api/(?:chat|generate)"
)
# Whose requests need not name a model: the server has one of this kind.
UNNAMED: Mapping[str, type[ModelEntry]] = {
    "/v1/images/generations": ImageModelEntry,
    "/v1/images/edits": ImageModelEntry,
    "/v1/tokenize": TextModelEntry,
    "/v1/detokenize": TextModelEntry,
    "/tokenize": TextModelEntry,
    "/detokenize": TextModelEntry,
    "/tokenizer_info": TextModelEntry,
}
MODEL_IN_QUERY = {"/tokenizer_info"}
# Without any of these fields, Ollama's clients ask for the model to be loaded or unloaded.
TO_LOAD = {"/api/generate": ("prompt", "suffix", "images"), "/api/chat": ("messages",)}
EMPTY = {b"", b'""', b"[]", b"null"}
MOST_REFERENCES = 64
REFERENCE = b'"item_reference"'
MOST_VALUES = 1 << 20  # that any route takes; of heavier bodies nothing is read but by a replica
MOST_TEXT = 8 * MAX_KNOWN_CHARS  # bytes of a name or an id, with its escapes

TEXT = msgspec.json.Decoder(str)


class Reach(enum.Enum):
    """How many replicas answer."""

    ONE = enum.auto()
    GROUP = enum.auto()  # all of the model's group
    GROUPS = enum.auto()  # one of each group
    ALL = enum.auto()


ANSWERED_BY_GROUPS = {"/health", "/v1/models", "/api/tags"}
ANSWERED_BY_ALL = {"/metrics", "/v1/requests", "/v1/models/reload", "/api/ps"}


class Asked(msgspec.Struct, frozen=True):
    reach: Reach = Reach.ONE
    model: str | None = None
    ids: tuple[str, ...] = ()  # of something that one replica keeps
    prefix: PromptStart = PromptStart()
    uses_model: bool = False  # its key's limits count it
    # Its model is of this kind. If it names none, the server's own one is meant.
    kind: type[ModelEntry] | None = None
    expected_tokens: int = 0


class Reference(msgspec.Struct, gc=False):
    type: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        """Other threads have their turn here: a million of them take 80 ms."""


class _Amounts(msgspec.Struct):
    """What says how many tokens an answer may have."""

    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    max_output_tokens: int | None = None
    max_new_tokens: int | None = None
    n: int | None = None


class _Generating(_Amounts):
    stream: bool = False


class _Naming(msgspec.Struct):
    model: str | None = None


def asked_for(
    method: str,
    path: str,
    body: bytes,
    seed: str = "",
    query: bytes = b"",
    content_type: str | None = None,
) -> Asked:
    """`path` as `CanonicalPaths` writes it. `seed`: of the prefix, beside the model.

    Reads the body as a replica will: what it found in another place would be counted for no key.
    """
    path = BASES.sub("/v1", path)
    if path in ANSWERED_BY_ALL:
        return Asked(Reach.ALL)
    if path in ANSWERED_BY_GROUPS and method == "GET":
        return Asked(Reach.GROUPS)
    if (kept := KEPT.fullmatch(path)) and path not in NOT_KEPT:
        return Asked(ids=(kept["id"],))
    in_path = None if path in NO_MODELS else MODEL_IN_PATH.fullmatch(path)
    model = in_path["model"] if in_path else None
    if in_path and in_path["verb"] in ("/load", "/unload"):
        return Asked(Reach.GROUP, model)
    kind = UNNAMED.get(path)
    if path in MODEL_IN_QUERY:
        model = parse_qs(query.decode("latin-1")).get("model", [None])[-1]
    if method != "POST":
        return Asked(model=model, kind=kind)
    kind_of_body, options = header(content_type)
    is_form = kind_of_body == FORM
    boundary = options.get(b"boundary", b"")
    weight = Weight(MOST_VALUES, MOST_VALUES)
    fields = in_form(body, boundary) if is_form else fields_of(without_mark(body), weight)
    model = model or text(fields, "model") or None
    if is_form or not fields:
        return Asked(model=model, uses_model=model is not None or kind is not None, kind=kind)
    if path.startswith("/api/"):
        model = model or text(fields, "name")
    if path in TO_LOAD and all(bytes(fields.get(one, b"")) in EMPTY for one in TO_LOAD[path]):
        return Asked(Reach.GROUP, model)
    is_prompted = PROMPTED.fullmatch(path) is not None
    return Asked(
        model=model,
        ids=tuple(references(fields)),
        prefix=prefix_of(fields, f"{seed}\0{model}") if is_prompted else PromptStart(),
        uses_model=path not in NO_MODELS,
        kind=kind,
        expected_tokens=likely_tokens(body, fields, weight, generates=is_prompted),
    )


def fields_of(body: bytes, weight: Weight | None = None) -> Fields:
    """None, if the body is too heavy."""
    refused = (BodyTooLarge, msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
    with contextlib.suppress(*refused):
        if weight is not None:
            weight.add(body)
            weight.finish()
        return FIELDS.decode(body)
    return {}


def text(fields: Fields, name: str) -> str | None:
    raw = fields.get(name)
    if raw is None or len(memoryview(raw)) > MOST_TEXT:
        return None
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        return TEXT.decode(raw)
    return None


def in_form(body: bytes, boundary: bytes) -> Fields:
    """Of a form's fields those that name a model."""
    with contextlib.suppress(ApiError):
        parts = [one for one in parse_form(body, boundary) if one.name in ("model", "model[]")]
        return fields_of(json_of(parts, _Naming, files=()))
    return {}


def references(fields: Fields) -> list[str]:
    """Ids of stored responses and their items that the body goes on from."""
    previous = text(fields, "previous_response_id")
    if previous:
        return [previous]
    given = bytes(fields.get("input", b""))
    if not given.startswith(b"[") or REFERENCE not in given:
        return []
    with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        items = msgspec.json.decode(given, type=list[Reference])
        found = [item.id for item in items if item.type == "item_reference"]
        return found[:MOST_REFERENCES]
    return []


def likely_tokens(body: bytes, fields: Fields, weight: Weight, *, generates: bool) -> int:
    """What is set aside of the key's tokens, as `Call` does it."""
    amounts: dict[str, int] = {}
    for name in (*ANSWER_LIMITS, "n"):
        with contextlib.suppress(msgspec.MsgspecError):
            if name in fields:
                amounts[name] = msgspec.json.decode(fields[name], type=int)
    kind = _Generating if generates else _Amounts
    return expected_tokens(len(body), kind(**amounts), weight.num_data)
