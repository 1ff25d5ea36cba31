"""Clients that leave a server in the middle: which requests they send, in which state the server is
with them by its own account, and how they go.

Bare sockets: a library would send, read or close more than is wanted.
"""

import contextlib
import json
import random
import re
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchlib import user, words
from fullserver import LIMIT_S, PULLED, Caller

Body = dict[str, Any]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
RIVERS = {
    "type": "json_schema",
    "json_schema": {
        "name": "rivers",
        "schema": {
            "type": "object",
            "properties": {
                "rivers": {"type": "array", "items": {"type": "string"}, "minItems": 20}
            },
            "required": ["rivers"],
        },
    },
}
ENDLESS = {"0": -100, "2": -100}  # SmolLM2's tokens that end a text


def chat(draw: random.Random, model: str = "main", **fields: Any) -> Body:
    text = f"Tell me of the number {draw.randrange(10**6)}."
    own = {"messages": [user(text)], "max_tokens": 120, "logit_bias": ENDLESS}
    return {"model": model, **own, **fields}


class Plan(NamedTuple):
    """A request, and the states in which its client leaves."""

    body: Callable[[random.Random], Body]
    leaves: tuple[str, ...]
    path: str = "/v1/chat/completions"
    sent: float = 1.0  # of the head (below 0.5) or of the whole request
    reads_on: bool = False  # who leaves reads an answer in the background


def long_prompt(draw: random.Random) -> Body:
    return chat(draw, stream=True, messages=[user(words(draw.random().hex(), 1200))])


def texts(draw: random.Random) -> list[str]:
    return [words(f"{draw.random()}", 120) for _ in range(32)]


def ranking(draw: random.Random) -> Body:
    documents = [words(f"{draw.random()}", 200) for _ in range(200)]
    return {"model": "cross", "query": "river", "documents": documents}


def painting(draw: random.Random) -> Body:
    own = {"size": "256x256", "num_inference_steps": 40, "n": 2}
    return {"model": "flux", "prompt": f"river {draw.random()}", **own}


def background(draw: random.Random) -> Body:
    text = f"Tell me of the number {draw.randrange(10**6)}."
    return {"model": "main", "input": text, "background": True, "stream": True,
            "max_output_tokens": 60}  # fmt: skip


BUSY = ("generating",)
PLANS: dict[str, Plan] = {
    "head": Plan(chat, ("taken",), sent=0.1),
    "body": Plan(chat, ("body",), sent=0.7),
    "loading": Plan(lambda draw: chat(draw, "cold"), ("loading",)),
    "swapping": Plan(
        lambda draw: chat(draw, draw.choice(["swap-a", "swap-b"]), stream=True), ("loading",)
    ),
    "queued": Plan(lambda draw: chat(draw, "narrow", stream=True), ("waiting",)),
    "prefill": Plan(long_prompt, ("waiting",)),
    "decoding": Plan(chat, BUSY),
    "streaming": Plan(lambda draw: chat(draw, stream=True, n=3), BUSY),
    "tool call": Plan(
        lambda draw: chat(draw, stream=True, tools=[WEATHER], tool_choice="required"), BUSY
    ),
    "schema": Plan(lambda draw: chat(draw, stream=True, response_format=RIVERS), BUSY),
    "background": Plan(background, BUSY, "/v1/responses"),
    "reader": Plan(lambda draw: chat(draw, stream=True, background=True), BUSY, reads_on=True),
    "embedding": Plan(
        lambda draw: {"model": "minilm", "input": texts(draw)}, ("waiting",), "/v1/embeddings"
    ),
    "reranking": Plan(ranking, ("waiting",), "/v1/rerank"),
    "painting": Plan(painting, ("waiting", "painting"), "/v1/images/generations"),
    "pulling": Plan(
        lambda draw: {"model": f"hf:{PULLED}", "stream": True}, ("pulling",), "/v1/models/pull"
    ),
}


class Look:
    """What the server says of its requests: asked all the time by one thread, read by all."""

    def __init__(self, port: int):
        self._port = port
        self._changed = threading.Condition()
        self._is_over = False
        self.rows: dict[str, Any] = {}
        self.number = 0  # of this look
        self._thread = threading.Thread(target=self._run, name="look")
        self._thread.start()

    def close(self) -> None:
        self._is_over = True
        self._thread.join()

    def after(self, number: int) -> tuple[int, dict[str, Any]]:
        """The first look that began after look `number` had come."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.number > number + 1, LIMIT_S):
                raise RuntimeError("the server does not say what it does")
            return self.number, self.rows

    def _run(self) -> None:
        with contextlib.closing(Caller(self._port)) as caller:
            while not self._is_over:
                rows = caller.json("GET", "/v1/requests")["data"]
                with self._changed:
                    self.rows = {row["id"]: row for row in rows}
                    self.number += 1
                    self._changed.notify_all()
                time.sleep(0.005)


def state_of(id: str, plan: Plan, rows: dict[str, Any]) -> str:
    """What the server does for the request, by its own account; "" if it knows of none."""
    row = rows.get(id)
    if row is None:
        return ""
    if row["model"] is None:
        if plan.sent < 1:
            return "body"
        return "pulling" if plan.path == "/v1/models/pull" else "loading"
    if row["generated_tokens"]:
        return "generating"
    return "painting" if row["images"] else "waiting"


class Client:
    """One request of one client, who then leaves."""

    def __init__(self, port: int, id: str, plan: Plan, way: str, draw: random.Random):
        self._id, self._plan, self._way = id, plan, way
        self._socket = socket.socket()
        if way == "deaf":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(LIMIT_S)
        self._port = port
        self._body = json.dumps(plan.body(draw)).encode()

    def run(self, look: Look) -> str:
        """The state in which the server was by its last word before the client left."""
        try:
            self._socket.connect(("127.0.0.1", self._port))
            self._socket.sendall(self._begun())
            state = self._until_time_to_leave(look)
            getattr(self, f"_leave_{self._way}")(look)
            return state
        finally:
            self._socket.close()

    def _begun(self) -> bytes:
        """As much of the request as the plan has."""
        head = (
            f"POST {self._plan.path} HTTP/1.1\r\nhost: localhost\r\nx-request-id: {self._id}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(self._body)}\r\n\r\n"
        ).encode()
        if self._plan.sent < 0.5:
            return head[: len(head) // 2]
        return head + self._body[: int(len(self._body) * self._plan.sent)]

    def _until_time_to_leave(self, look: Look) -> str:
        if self._plan.sent < 0.5:
            while not is_taken(self._socket):
                time.sleep(0.002)
            return "taken"
        number, last = look.number, ""
        while True:
            number, rows = look.after(number)
            state = state_of(self._id, self._plan, rows)
            if state in self._plan.leaves:
                if self._plan.reads_on:
                    return self._follow(state)
                return state
            status = self._status()
            if status or (last and not state):
                return f"answered {status or 200}"
            last = state

    def _follow(self, state: str) -> str:
        """Leaves as a second reader, beside the first, who stays until then."""
        with socket.create_connection(("127.0.0.1", self._port), LIMIT_S) as second:
            second.sendall(
                f"GET /v1/requests/{self._id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
            )
            return state if second.recv(1024).startswith(b"HTTP/1.1 200") else "no second reader"

    def _status(self) -> int:
        """Of the answer, if it has begun and is no stream that goes on."""
        if not select.select([self._socket], [], [], 0)[0]:
            return 0
        head = self._socket.recv(2048, socket.MSG_PEEK)
        found = re.match(rb"HTTP/1.1 (\d+)", head)
        goes_on = b"text/event-stream" in head and not self._has_last_event()
        return 0 if goes_on else int(found[1]) if found else -1

    def _has_last_event(self) -> bool:
        data = self._socket.recv(1 << 20, socket.MSG_PEEK)
        return b"data: [DONE]" in data or b"response.completed" in data

    # Ways to go.

    def _leave_fin(self, look: Look) -> None:
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):  # what is unread would make it a RST
            while self._socket.recv(1 << 16):
                pass

    def _leave_rst(self, look: Look) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _leave_half(self, look: Look) -> None:
        """Says that it sends no more, and reads what comes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(1 << 16):
                pass

    def _leave_deaf(self, look: Look) -> None:
        """Stays, and reads nothing until the server is done with it."""
        number = look.number
        while True:
            number, rows = look.after(number)
            if self._id not in rows:
                return


WAYS = tuple(name.removeprefix("_leave_") for name in vars(Client) if name.startswith("_leave_"))


def is_taken(connection: socket.socket) -> bool:
    """Whether the server has read all that was sent, by Linux's account of its end."""
    if sys.platform != "linux":
        return True
    ends = connection.getpeername(), connection.getsockname()
    wanted = [f":{port:04X}" for _, port in ends]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues, *_ = line.split()
        if local.endswith(wanted[0]) and remote.endswith(wanted[1]) and state == "01":
            return queues.endswith(":00000000")
    return False
