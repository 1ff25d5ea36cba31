"""A server for coding agents, whose model calls the tools that a test tells it to call, and a
record of what was sent and answered.

Everything above the backend is the server's own.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import httpx2
from chat_templates import QWEN
from echo import END, START, EchoBackend, EchoRuntime, EchoServer
from serving import Serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MODEL = "agent"
CATALOGUE = f"""
[model."{MODEL}"]
kind = "text"
source = "echo.gguf"
context_length = 300_000 # of bytes: clients send up to 100 kB
sequences = 4
chat_template = '''{QWEN}'''
"""
HOP_HEADERS = {b"host", b"connection", b"content-length", b"transfer-encoding"}
CALL = re.compile(r"CALL (\w+)((?: \w+=[\w./<]+)*)", re.ASCII)


def calling(name: str, **arguments: str) -> str:
    """A prompt that makes the model call a tool once. Without quotes, which clients change; values
    have no spaces."""
    return " ".join(["CALL", name, *(f"{key}={value}" for key, value in arguments.items())])


def answer_to(prompt: str) -> str:
    """The call that the prompt asks for, or the last tool's result."""
    *_, last = re.split(f"{chr(START)}assistant\n", prompt)
    if asked := CALL.search(last):
        arguments = dict(pair.split("=") for pair in asked[2].split())
        call = json.dumps({"name": asked[1], "arguments": arguments})
        return f"<tool_call>\n{call}\n</tool_call>"
    _, was_called, result = last.rpartition(f"{chr(START)}tool\n")
    return f"The tool says {result.partition(chr(END))[0]}" if was_called else "Fine."


class CallingBackend(EchoBackend):
    likely = 100.0  # at any temperature

    def next_token(self, history: list[int]) -> int:
        prompt, begins, said = "".join(map(chr, history)).rpartition(f"{chr(START)}assistant\n")
        assert begins
        answer = answer_to(prompt)
        return ord(answer[len(said)]) if len(said) < len(answer) else END


class CallingRuntime(EchoRuntime):
    backend_kind = CallingBackend


@dataclass
class Exchange:
    path: str
    body: bytes = b""
    status: int = 0
    answer: bytes = b""


@dataclass
class Recorder:
    """An application with a record of its exchanges."""

    app: ASGIApp
    exchanges: list[Exchange]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = Exchange(f"{scope['method']} {scope['path']}")
        self.exchanges.append(exchange)

        async def received() -> Message:
            message = await receive()
            exchange.body += message.get("body", b"")
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            exchange.answer += message.get("body", b"")
            await send(message)

        await self.app(scope, received, sent)


class Relay:
    """An application that has another server answer, by a connection for each request: none is left
    when this one's server ends."""

    def __init__(self, url: str):
        self._url = url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        given = [pair for pair in scope["headers"] if pair[0] not in HOP_HEADERS]
        body, method = await request.body(), scope["method"]
        async with (
            httpx2.AsyncClient(base_url=self._url, timeout=600, trust_env=False) as client,
            client.stream(method, path.decode(), headers=given, content=body) as reply,
        ):
            headers = [(name.lower(), value) for name, value in reply.headers.raw]
            headers = [pair for pair in headers if pair[0] not in HOP_HEADERS]
            await send(
                {"type": "http.response.start", "status": reply.status_code, "headers": headers}
            )
            async for part in reply.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})


class AgentRelay(Serving):
    """Before a server that has the model, with a record of what passes."""

    def __init__(self, url: str):
        self.exchanges: list[Exchange] = []
        super().__init__(Recorder(Starlette(routes=[Mount("/", Relay(url))]), self.exchanges))


class AgentServer(EchoServer):
    main_model = MODEL
    runtime_kind = CallingRuntime

    def __init__(self, folder: Path):
        self.exchanges: list[Exchange] = []
        super().__init__(folder, CATALOGUE)

    def wrapped(self, app: ASGIApp) -> ASGIApp:
        return Recorder(app, self.exchanges)
