"""Sends an attempt over a socket of its own making and says what came back, byte for byte."""

import json
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from fuzzing.wire import Delivery

READ_BYTES = 1 << 16
MOST_BYTES = 64 << 20  # of an answer


@dataclass(frozen=True)
class Span:
    """By `time.monotonic`."""

    began_s: float = 0.0
    ended_s: float = 0.0

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s

    def overlaps(self, other: "Span") -> bool:
        return self.began_s <= other.ended_s and other.began_s <= self.ended_s


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    is_whole: bool = True

    @property
    def json(self) -> Any:
        """None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass
class Outcome:
    answers: list[Answer] = field(default_factory=list)
    took_s: float = 0.0
    silence: Span = Span()  # the longest wait for a byte
    trouble: str = ""  # refused, reset, closed, hangs or unreadable: what the connection did
    rest: bytes = b""  # that is no answer


class Unreadable(Exception):
    """What came is not HTTP."""


class Client:
    """Keeps one connection for plain requests, as most clients do."""

    def __init__(self, port: int, limit_s: float):
        self._port = port
        self._limit_s = limit_s  # without a byte
        self._kept: socket.socket | None = None

    def close(self) -> None:
        if self._kept:
            self._kept.close()
        self._kept = None

    def send(self, delivery: Delivery, is_head: bool = False) -> Outcome:
        began = time.monotonic()
        reading = Reading(self._limit_s)
        is_reused = delivery.is_plain and self._kept is not None
        try:
            connection = self._connection(delivery.is_plain)
        except OSError as error:
            return Outcome(trouble=f"refused ({error})")
        try:
            reading.exchange(connection, delivery, is_head)
        except (ConnectionError, BrokenPipeError) as error:
            reading.outcome.trouble = f"reset ({error})"
        except TimeoutError:
            reading.outcome.trouble = "hangs"
        except Unreadable as error:
            reading.outcome.trouble = f"unreadable ({error})"
        outcome = reading.outcome
        outcome.took_s = time.monotonic() - began
        if outcome.trouble or not delivery.is_plain or not reading.keeps_alive:
            connection.close()
            if connection is self._kept:
                self._kept = None
        if is_reused and not outcome.answers and outcome.trouble in ("closed", "reset"):
            return self.send(delivery, is_head)  # it was idle for too long
        return outcome

    def _connection(self, is_plain: bool) -> socket.socket:
        if is_plain and self._kept:
            return self._kept
        connection = socket.create_connection(("127.0.0.1", self._port), self._limit_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if is_plain:
            self._kept = connection
        return connection


class Reading:
    """The answers to one delivery."""

    def __init__(self, limit_s: float):
        self._limit_s = limit_s
        self.outcome = Outcome()
        self.keeps_alive = True
        self._held = b""
        self._num_read = 0

    def exchange(self, connection: socket.socket, delivery: Delivery, is_head: bool) -> None:
        """Raises ConnectionError, TimeoutError or Unreadable."""
        connection.settimeout(self._limit_s)
        try:
            for at, packet in enumerate(delivery.packets):
                if at and delivery.how == "expecting":
                    self._await_continue(connection)
                connection.sendall(packet)
            if delivery.ends_writing:
                connection.shutdown(socket.SHUT_WR)
        except (ConnectionError, BrokenPipeError):
            pass  # it may have answered before it read all
        if delivery.leaves_after is not None:
            while self._num_read < delivery.leaves_after and self._receive(connection):
                pass
            return
        wanted = delivery.num_answers
        while wanted is None or len(self.outcome.answers) < wanted:
            answer = self._answer(connection, is_head)
            if answer is None:
                break
            if answer.status == 100:
                continue
            self.outcome.answers.append(answer)
            self.keeps_alive = answer.headers.get("connection", "").lower() != "close"
            if not answer.is_whole or not self.keeps_alive:
                break
            if wanted is None and not delivery.ends_writing and delivery.how != "leaving":
                break
        self.outcome.rest = self._held

    def _await_continue(self, connection: socket.socket) -> None:
        select.select([connection], [], [], 1.0)

    def _answer(self, connection: socket.socket, is_head: bool) -> Answer | None:
        """None at the connection's end."""
        while b"\r\n\r\n" not in self._held:
            if not self._receive(connection):
                if self._held:
                    raise Unreadable(f"{self._held[:80]!r}")
                self.outcome.trouble = "" if self.outcome.answers else "closed"
                return None
        head, self._held = self._held.split(b"\r\n\r\n", 1)
        answer = parsed_head(head)
        if answer.status == 100 or answer.status in (204, 304) or is_head:
            return answer
        if answer.headers.get("transfer-encoding") == "chunked":
            self._read_chunks(connection, answer)
        elif (length := answer.headers.get("content-length")) is not None:
            answer.body = self._take(connection, int(length), answer)
        else:  # to the connection's end, as HTTP/1.0 has it
            while self._receive(connection):
                pass
            answer.body, self._held = self._held, b""
            answer.headers["connection"] = "close"
        return answer

    def _read_chunks(self, connection: socket.socket, answer: Answer) -> None:
        parts = []
        while answer.is_whole:
            while b"\r\n" not in self._held:
                if not self._receive(connection):
                    answer.is_whole = False
                    break
            line, _, self._held = self._held.partition(b"\r\n")
            if not answer.is_whole:
                break
            try:
                size = int(line, 16)
            except ValueError:
                raise Unreadable(f"chunk of size {line[:40]!r}") from None
            parts.append(self._take(connection, size, answer))
            self._take(connection, 2, answer)
            if size == 0:
                break
        answer.body = b"".join(parts)

    def _take(self, connection: socket.socket, size: int, answer: Answer) -> bytes:
        while len(self._held) < size:
            if not self._receive(connection):
                answer.is_whole = False
                break
        data, self._held = self._held[:size], self._held[size:]
        return data

    def _receive(self, connection: socket.socket) -> bool:
        since = time.monotonic()
        data = connection.recv(READ_BYTES)
        wait = Span(since, time.monotonic())
        self.outcome.silence = max(self.outcome.silence, wait, key=lambda span: span.took_s)
        self._held += data
        self._num_read += len(data)
        if self._num_read > MOST_BYTES:
            raise Unreadable("an endless answer")
        return bool(data)


def parsed_head(head: bytes) -> Answer:
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise Unreadable(f"{first[:80]!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise Unreadable(f"header {line[:80]!r}")
        headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    return Answer(int(words[1]), headers)
