"""One answer made of those of several replicas. Pure."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from localinfra.scale.groups import Groups

# Routes that list models: the list's name in the answer, and the name of a model's name in it.
MODEL_LISTS = {"/v1/models": ("data", "id"), "/api/tags": ("models", "model")}
MODEL_LISTS["/api/ps"] = MODEL_LISTS["/api/tags"]
REQUESTS, METRICS, HEALTH = "/v1/requests", "/metrics", "/health"
SAMPLE = re.compile(r"(?P<name>[^{\s]+)(?:\{(?P<labels>.*)\})? (?P<value>[^\s}]+(?: [^\s}]+)?)")


class Reply(msgspec.Struct, frozen=True):
    """A whole answer."""

    group: str
    replica: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def is_error(self) -> bool:
        return self.status >= 400

    def with_body(self, body: bytes) -> "Reply":
        headers = [(name, value) for name, value in self.headers if name != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        return msgspec.structs.replace(self, headers=headers, body=body)


def merged(path: str, replies: Sequence[Reply], groups: Groups) -> Reply:
    """At least one reply. An error of one is the answer of all: what was asked for did not happen
    everywhere."""
    worst = max(replies, key=lambda reply: reply.status)
    if worst.is_error:
        return worst
    first = replies[0]
    if path == METRICS:
        texts = {(one.group, one.replica): one.body.decode() for one in replies}
        return first.with_body(merged_metrics(texts).encode())
    if path == REQUESTS:
        return first.with_body(merged_lists(replies, "data"))
    if path in MODEL_LISTS:
        return first.with_body(merged_models(replies, *MODEL_LISTS[path], groups))
    if path == HEALTH:
        return first.with_body(merged_health(replies))
    return first


def merged_lists(replies: Sequence[Reply], name: str) -> bytes:
    whole, *others = map(decoded, replies)
    whole[name] = [item for one in (whole, *others) for item in one[name]]
    return msgspec.json.encode(whole)


def merged_models(replies: Sequence[Reply], name: str, id: str, groups: Groups) -> bytes:
    """Each model as a replica of its own group describes it, in the order of the first reply."""
    whole = decoded(replies[0])
    found: dict[str, Any] = {}
    for reply in replies:
        for card in decoded(reply)[name]:
            is_own = groups.of(card[id]) == reply.group
            if is_own or card[id] not in found:
                found[card[id]] = card
    whole[name] = list(found.values())
    return msgspec.json.encode(whole)


def merged_health(replies: Sequence[Reply]) -> bytes:
    """Numbers are summed."""
    whole, *others = map(decoded, replies)
    for one in others:
        for key, value in one.items():
            if isinstance(value, int):
                whole[key] = whole.get(key, 0) + value
    return msgspec.json.encode(whole)


def decoded(reply: Reply) -> dict[str, Any]:
    with contextlib.suppress(msgspec.MsgspecError):
        found = msgspec.json.decode(reply.body)
        if isinstance(found, dict):
            return found
    raise ValueError(f"replica {reply.replica} has answered with something else than an object")


def merged_metrics(texts: Mapping[tuple[str, str], str]) -> str:
    """Prometheus' texts by group and replica → one, whose samples have both as labels. What belongs
    to a metric stands together, as the format asks for."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for (group, replica), text in texts.items():
        own = f'group="{escaped(group)}",replica="{escaped(replica)}"'
        family = ""
        is_known = False
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                is_known = family in heads
                heads.setdefault(family, [line])
                samples.setdefault(family, [])
            elif line.startswith("#"):
                if not is_known and family:
                    heads[family].append(line)
            elif found := SAMPLE.fullmatch(line):
                labels = ",".join(filter(None, (own, found["labels"])))
                samples[family].append(f"{found['name']}{{{labels}}} {found['value']}")
    lines = [line for family in heads for line in (*heads[family], *samples[family])]
    return "".join(f"{line}\n" for line in lines)


def escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
