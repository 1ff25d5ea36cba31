"""Servers of models on this machine, with the faults of real ones: a hub, a registry, files.

Speaks HTTP and nothing of localinfra. Each `Site` is an origin of its own; what it was asked is in
`requests`. A fault is used up by one request for a file.
"""

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, NamedTuple

CHUNK = 64 << 10
COMMIT = "c0ffee" + "0" * 34


class Asked(NamedTuple):
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Fault:
    """What one answer does wrong."""

    status: int | None = None  # instead of the file
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the line breaks
    spoil: bool = False  # the first byte is another
    stall: bool = False  # after `cut_after` bytes nothing comes, until the client gives up


@dataclass
class Content:
    data: bytes
    etag: str | None
    has_ranges: bool = True


@dataclass
class Site:
    url: str = ""
    files: dict[str, Content] = field(default_factory=dict)  # path → what is there
    answers: dict[str, bytes] = field(default_factory=dict)  # path → JSON
    redirects: dict[str, str] = field(default_factory=dict)  # path → where to
    token: str | None = None  # without it, redirects and answers are refused
    faults: list[Fault] = field(default_factory=list)
    requests: list[Asked] = field(default_factory=list)
    sent_bytes: int = 0  # of files
    num_connections: int = 0
    before_chunk: Callable[[int], bool] = lambda size: True  # false: this answer ends
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, path: str, data: bytes, etag: str | None = None, **more: bool) -> str:
        """Returns the URL of a new file."""
        self.files[path] = Content(data, etag or f'"{hashlib.md5(data).hexdigest()}"', **more)
        return self.url + path

    def asked(self, path: str) -> list[Asked]:
        return [one for one in self.requests if one.path.startswith(path)]


def repository(hub: Site, cdn: Site, repo: str, files: Mapping[str, bytes], **more: object) -> None:
    """Puts a repository on the hub: large files are elsewhere, as on the real one."""
    siblings: list[dict[str, object]] = []
    for name, data in files.items():
        row: dict[str, object] = {"rfilename": name, "size": len(data)}
        path = f"/{repo}/resolve/{COMMIT}/{name}"
        if name.endswith((".json", ".txt")):
            row["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            hub.put(path, data, f'"{row["blobId"]}"')
        else:
            sha256 = hashlib.sha256(data).hexdigest()
            row |= {"blobId": "0" * 40, "lfs": {"sha256": sha256, "size": len(data)}}
            hub.redirects[path] = cdn.put(f"/cdn/{sha256}", data, f'"{sha256}"')
        siblings.append(row)
    listing = {"id": repo, "sha": COMMIT, "siblings": siblings, **more}
    hub.answers[f"/api/models/{repo}"] = json.dumps(listing).encode()


def registry(site: Site, path: str, layers: Mapping[str, bytes]) -> None:
    """Puts a model into Ollama's registry. `path`: USER/NAME/TAG; `layers` by type."""
    name, _, tag = path.rpartition("/")
    rows = []
    for kind, data in layers.items():
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        media = f"application/vnd.ollama.image.{kind}"
        rows.append({"mediaType": media, "digest": digest, "size": len(data)})
        site.put(f"/v2/{name}/blobs/{digest}", data)
    site.answers[f"/v2/{name}/manifests/{tag}"] = json.dumps({"layers": rows}).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: ClassVar[Site]

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
        super().setup()
        with self.site.lock:
            self.site.num_connections += 1

    def do_GET(self) -> None:
        path, authorization = self.path.partition("?")[0], self.headers["Authorization"]
        with self.site.lock:
            self.site.requests.append(Asked(path, self.headers["Range"], authorization))
        if self.site.token and authorization != f"Bearer {self.site.token}":
            self.reply(401, b'{"error":"no"}')
        elif path in self.site.answers:
            self.reply(200, self.site.answers[path])
        elif path in self.site.redirects:
            self.reply(302, b"", {"Location": self.site.redirects[path]})
        elif path in self.site.files:
            self.send_file(self.site.files[path])
        else:
            self.reply(404, b"nothing here")

    def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, content: Content) -> None:
        with self.site.lock:
            fault = self.site.faults.pop(0) if self.site.faults else Fault()
        if fault.status:
            self.reply(fault.status, b"fault", fault.headers)
            return
        start, end = self.asked_range(content)
        self.send_response(206 if (start, end) != (0, len(content.data)) else 200)
        self.send_header("Content-Length", str(end - start))
        if (start, end) != (0, len(content.data)):
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content.data)}")
        if content.etag:
            self.send_header("ETag", content.etag)
        self.end_headers()
        self.pour(content.data[start:end], fault)

    def asked_range(self, content: Content) -> tuple[int, int]:
        """Start and end, the end excluded."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        is_same = self.headers["If-Range"] in (None, content.etag)
        if found is None or not content.has_ranges or not is_same:
            return 0, len(content.data)
        return int(found[1]), min(int(found[2]) + 1, len(content.data))

    def pour(self, body: bytes, fault: Fault) -> None:
        if fault.spoil:
            body = bytes([body[0] ^ 255]) + body[1:]
        cut = len(body) if fault.cut_after is None else min(fault.cut_after, len(body))
        for at in range(0, cut, CHUNK):
            chunk = body[at : min(at + CHUNK, cut)]
            if not self.site.before_chunk(len(chunk)):
                break
            with self.site.lock:
                self.site.sent_bytes += len(chunk)
            self.wfile.write(chunk)
        if fault.stall:
            self.connection.recv(1)  # until the client ends it
        self.close_connection = cut < len(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(address: str = "127.0.0.1") -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer((address, 0), type("Bound", (Handler,), {"site": site}))
    server.daemon_threads = True
    server.block_on_close = False
    site.url = f"http://{address}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
