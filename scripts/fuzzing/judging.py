"""What a server owes each attempt; `faults_of` says where it did not give it. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from fuzzing.client import Answer, Outcome
from fuzzing.generator import Attempt

# Errors of the server that are promised, by status: their codes.
PROMISED: Mapping[int, frozenset[str | None]] = {
    502: frozenset({"pull_failed"}),
    503: frozenset(
        {"model_unavailable", "chats_unavailable", "no_summary", "too_many_connections"}
    ),
    505: frozenset({"unsupported_protocol"}),
    507: frozenset({"insufficient_storage"}),
}
# Said before any route is known.
EVERYWHERE = frozenset({400, 401, 403, 404, 405, 408, 413, 414, 415, 426, 429, 431, 505})
NAMED_ENDS = (
    b"event: message_stop\n",
    b"event: response.completed\n",
    b"event: response.incomplete\n",
    b"event: response.failed\n",
)
SERVER_ERROR = re.compile(rb'"type": ?"(server_error|api_error)"')
PROMISED_IN_STREAM = re.compile(rb'"code": ?"(pull_failed|model_unavailable|no_summary)"')
CUTS = ("broken chunks", "cut", "leaving", "damaged head", "lying length")


class Judge:
    """Holds answers against the OpenAPI document."""

    def __init__(self, document: Mapping[str, Any], checks_answers: bool = True):
        self._document = document
        self._checks_answers = checks_answers
        self._operations = {
            one["operationId"]: one for item in document["paths"].values() for one in item.values()
        }
        self._validators: dict[tuple[str, str], Any] = {}

    def faults_of(self, attempt: Attempt, outcome: Outcome) -> list[str]:
        return [*dict.fromkeys(self._faults(attempt, outcome))]

    def _faults(self, attempt: Attempt, outcome: Outcome) -> Iterator[str]:
        delivery = attempt.delivery
        if outcome.trouble == "hangs":
            yield "hangs"
        elif outcome.trouble.startswith(("refused", "unreadable")):
            yield outcome.trouble
        elif outcome.trouble and delivery.num_answers is not None:
            yield f"connection lost: {outcome.trouble}"
        elif delivery.num_answers is not None and not self._is_refused(outcome):
            if len(outcome.answers) != delivery.num_answers:
                yield f"{len(outcome.answers)} answers for {delivery.num_answers} requests"
        if delivery.is_plain and outcome.rest:
            yield f"more than the answer came: {outcome.rest[:60]!r}"
        for answer in outcome.answers:
            yield from self._faults_of(attempt, answer)

    def _is_refused(self, outcome: Outcome) -> bool:
        """So that the connection ends with it."""
        return bool(outcome.answers) and outcome.answers[-1].headers.get("connection") == "close"

    def _faults_of(self, attempt: Attempt, answer: Answer) -> Iterator[str]:
        if not answer.is_whole:
            yield f"cut answer of status {answer.status}"
            return
        if not answer.headers.get("x-request-id"):
            yield f"no x-request-id with status {answer.status}"
        if answer.status >= 500:
            code = code_of(answer)
            if code not in PROMISED.get(answer.status, ()) and not is_ollamas(attempt, answer):
                yield f"status {answer.status} ({code})"
        if attempt.is_on_route and attempt.delivery.how not in CUTS:
            if answer.status not in attempt.route.statuses | EVERYWHERE:
                yield f"status {answer.status}, which is not documented"
        if answer.status >= 400 and attempt.request.method != "HEAD":
            yield from faults_of_error(answer)
        elif answer.status == 200:
            yield from self._faults_of_success(attempt, answer)

    def _faults_of_success(self, attempt: Attempt, answer: Answer) -> Iterator[str]:
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if kind == "text/event-stream":
            if SERVER_ERROR.search(answer.body) and not PROMISED_IN_STREAM.search(answer.body):
                yield "a server's error in the stream"
            elif not is_ended(answer.body):
                yield "a stream without its end"
        elif kind == "application/json" and answer.body and answer.json is None:
            yield "JSON that can't be read"
        if self._checks_answers and attempt.is_on_route and attempt.delivery.how not in CUTS:
            if attempt.request.method == attempt.route.method:
                yield from self._faults_of_shape(attempt, answer, kind)

    def _faults_of_shape(self, attempt: Attempt, answer: Answer, kind: str) -> Iterator[str]:
        name = attempt.route.operation
        content = self._operations[name]["responses"]["200"].get("content", {})
        if answer.body and kind not in content and f"{kind.partition('/')[0]}/*" not in content:
            yield f"content type {kind!r} is not documented"
        for value in values_in(answer.body, kind):
            if "error" in value and kind != "application/json":
                continue  # in place of an event or a line
            error = next(self._validator(name, kind, content).iter_errors(value), None)
            if error:
                yield f"the answer is not as documented: {error.json_path}: {error.message[:100]}"
                return

    def _validator(self, name: str, kind: str, content: Any) -> Any:
        if (name, kind) not in self._validators:
            components = {"schemas": self._document["components"]["schemas"]}
            schema = {**content.get(kind, {}).get("schema", {}), "components": components}
            self._validators[name, kind] = jsonschema.Draft202012Validator(schema)
        return self._validators[name, kind]


def is_ollamas(attempt: Attempt, answer: Answer) -> bool:
    """Whether it is a promised error of Ollama's API, which has no codes."""
    if not isinstance((answer.json or {}).get("error"), str):
        return False
    return answer.status == 503 or (answer.status == 502 and b"pull" in attempt.request.target)


def code_of(answer: Answer) -> str | None:
    found = answer.json
    error = found.get("error") if isinstance(found, dict) else None
    return error.get("code") or error.get("type") if isinstance(error, dict) else None


def faults_of_error(answer: Answer) -> Iterator[str]:
    """An error has one of three shapes, by the API that the path belongs to."""
    found = answer.json
    error = found.get("error") if isinstance(found, dict) else None
    if answer.headers.get("content-type") != "application/json":
        yield f"an error of content type {answer.headers.get('content-type')!r}"
    elif isinstance(error, str):
        if not error:
            yield "an error without a message"
    elif not isinstance(error, dict) or not error.get("message") or not error.get("type"):
        yield "an error in another shape"
    elif "Traceback" in error["message"] or "object at 0x" in error["message"]:
        yield "an error that shows the server's inside"


def is_ended(stream: bytes) -> bool:
    """With its last event, or an error in its place."""
    last = stream.rstrip(b"\n").rpartition(b"\n\n")[2] + b"\n"
    return (
        last == b"data: [DONE]\n"
        or last.startswith(NAMED_ENDS)
        or b'"error"' in last
        or last.startswith((b"event: image_generation.completed", b"event: image_edit.completed"))
    )


def values_in(body: bytes, kind: str) -> Iterator[Any]:
    """The JSON of an answer, of its lines, or of its first and last events."""
    if kind == "application/json" and body:
        yield json.loads(body)
    elif kind == "application/x-ndjson":
        lines = body.splitlines()
        yield from map(json.loads, lines[:2] + lines[-1:])
    elif kind == "text/event-stream":
        lines = [line for line in body.split(b"\n") if line.startswith(b"data: {")]
        yield from (json.loads(line.removeprefix(b"data: ")) for line in lines[:2] + lines[-1:])
