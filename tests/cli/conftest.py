"""A stub of the server: real HTTP in a thread, canned answers."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 5},
}


def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    chunk: dict[str, object] = {"choices": [{"delta": delta, "finish_reason": finish_reason}]}
    if finish_reason:
        chunk["usage"] = USAGE
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def echoed(body: dict[str, list[dict[str, str]]]) -> Iterator[bytes]:
    """Answers with the last message, in two pieces."""
    text = f"<{body['messages'][-1]['content']}>"
    yield event({"role": "assistant", "content": ""})
    yield b": keep-alive\n\n"
    yield event({"content": text[:3]})
    yield event({"content": text[3:]})
    yield event({}, "stop")
    yield b"data: [DONE]\n\n"


@dataclass
class Stub:
    """What the server answers, and the requests it got."""

    url: str = ""
    key: str | None = None
    health: tuple[int, bytes] = (200, b'{"status":"ok"}')
    stream: Callable[[dict[str, list[dict[str, str]]]], Iterator[bytes]] = echoed
    bodies: list[dict[str, list[dict[str, str]]]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)  # a client left a stream

    cards: dict[str, bytes] = field(default_factory=dict)  # path → card of an unlisted model
    models: bytes = (
        b'{"object":"list","data":[{"id":"vectors","kind":"embedding"},'
        b'{"id":"far","kind":"text","state":"fetch needed"},'
        b'{"id":"one","kind":"text","state":"loaded"},{"id":"two"}]}'
    )


def handler_of(state: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            # A client that resets its keep-alive connection would put a traceback on the stderr
            # that the tests check.
            with contextlib.suppress(ConnectionError):
                super().handle()

        def do_GET(self) -> None:
            if self.path == "/health":
                self.reply(*state.health)
            elif self.path in ("/v1/models", "/v1/models?all=true"):
                self.reply(200, state.models)
            elif self.path in state.cards:
                self.reply(200, state.cards[self.path])
            else:
                self.reply(404, b'{"error":{"message":"no such path"}}')

        def do_POST(self) -> None:
            body = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
            state.bodies.append(body)
            if state.key and self.headers["Authorization"] != f"Bearer {state.key}":
                self.reply(401, b'{"error":{"message":"Wrong key."}}')
            elif body.get("stream"):
                self.pour(state.stream(body))
            else:
                self.reply(200, msgspec.json.encode({"echo": body}))

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def pour(self, parts: Iterator[bytes]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for part in parts:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                state.gone.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in ("LOCALINFRA_URL", "LOCALINFRA_API_KEY", "LOCALINFRA_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    state = Stub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(state))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()
