"""A server with named keys, and what its clients ask."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from echo import CATALOGUE, ECHO, EchoServer
from metering import bearer

from localinfra.keys import file
from localinfra.keys.holders import Holders
from localinfra.keys.record import KeyLimits, KeyRecord, hash_of, utc_now


def key_file(folder: Path, keys: Mapping[str, dict[str, Any]]) -> Path:
    """Writes keys that are called as they are, with these options of `KeyRecord` or of its
    limits."""
    path = folder / "keys.json"
    records = []
    for name, options in keys.items():
        limits = {each: options.get(each) for each in KeyLimits.__struct_fields__}
        rest = {each: value for each, value in options.items() if each not in limits}
        sha256 = hash_of(name.encode()).hex()
        records.append(
            KeyRecord(
                name=name, sha256=sha256, created=utc_now(), limits=KeyLimits(**limits), **rest
            )
        )
    file.change(path, lambda _: records)
    return path


class NamedKeysServer(EchoServer):
    """An echo whose named keys are `keys`."""

    def __init__(
        self, folder: Path, keys: Mapping[str, dict[str, Any]], catalogue: str = CATALOGUE
    ):
        self.folder = folder
        holders = Holders(key_file(folder, keys))
        holders.read()
        super().__init__(folder, catalogue, holders=holders)

    def ask(self, key: str, method: str, path: str, body: Any = None) -> httpx2.Response:
        return self.client.request(method, path, json=body, headers=bearer(key))

    def chat(self, key: str, path: str = "/v1/chat/completions", **body: Any) -> httpx2.Response:
        messages = [{"role": "user", "content": "hello there"}]
        fields = {"model": ECHO, "messages": messages, "max_tokens": 5, "stream": False}
        return self.ask(key, "POST", path, fields | body)

    def change(self, keys: Mapping[str, dict[str, Any]]) -> None:
        key_file(self.folder, keys)
