"""Clients that leave an echo, which computes a step whenever a test lets it, and what they pay."""

import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from echo import EchoBackend, EchoRuntime
from named import key_file
from numpy.typing import NDArray
from waiting import wait_for

from localinfra.costs import Ledger, Used
from localinfra.engine.backend import Batch
from localinfra.keys.holders import Holders
from localinfra.keys.meter import KeyMeter
from localinfra.keys.record import KeyLimits, hash_of, label_of

TPM = 100_000
ROWS = 16  # of a step


class Stepping(EchoBackend):
    """Decodes once for each release of `may_step`, and counts."""

    batch_size = ROWS
    may_step = threading.Semaphore(0)
    num_rows = num_sampled = 0
    is_waiting = False  # to be let

    def decode(self, batch: Batch) -> None:
        Stepping.is_waiting = True
        assert self.may_step.acquire(timeout=600)
        Stepping.is_waiting = False
        super().decode(batch)
        Stepping.num_rows += len(batch)

    def logits(self, row: int) -> NDArray[np.float32]:
        Stepping.num_sampled += 1
        return super().logits(row)


class SteppingRuntime(EchoRuntime):
    backend_kind = Stepping


class Account(Ledger):
    def __init__(self) -> None:
        super().__init__()
        self.used: defaultdict[str, Used] = defaultdict(Used)  # by key

    def add(self, key: str, model: str, used: Used) -> None:
        self.used[key].add(used)


def limited(folder: Path, *keys: str, single: tuple[str, ...] = ()) -> Holders:
    """Keys that get nothing of their limit back. `single`: with one request at a time."""
    limits = {key: {"tpm": TPM} for key in keys} | {
        key: {"tpm": TPM, "concurrent": 1} for key in single
    }
    found = Holders(key_file(folder, limits), clock=lambda: 0.0)
    found.read()
    return found


class Client:
    """One that has its whole limit, and has paid nothing."""

    def __init__(self, port: int, account: Account, holders: Holders, key: str):
        self.port = port
        self.key = key
        self.label = label_of(hash_of(key.encode()))
        holders.meters.keep_only(())
        meter = holders.meters.of(self.label, KeyLimits(tpm=TPM))
        assert meter
        self.meter: KeyMeter = meter
        self._account = account
        account.used.clear()
        Stepping.num_rows = Stepping.num_sampled = 0

    def send(self, path: str, body: dict[str, Any]) -> socket.socket:
        data = msgspec.json.encode(body)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(head.encode() + data)
        return connection

    @property
    def paid(self) -> Used:
        return self._account.used[self.label]

    @property
    def taken(self) -> int:
        """Of its limit."""
        [state] = self.meter.states()
        return TPM - state.remaining

    def settled(self) -> None:
        """Lets the engine go on until the request is over."""

        def is_over() -> bool:
            if self.meter.num_running:
                Stepping.may_step.release()
            return not self.meter.num_running

        wait_for(is_over)
        while Stepping.may_step.acquire(blocking=False):
            pass


def until(condition: Callable[[], bool]) -> None:
    """Lets the engine make single steps until the condition is true, and computes nothing then."""

    def is_true() -> bool:
        if condition():
            return True
        if Stepping.is_waiting:
            Stepping.may_step.release()
        return False

    wait_for(is_true)
