"""A server in a process of its own that knows for how long its event loop stood still.

Run as a program it serves a catalogue, writes its port, and tells at `/blocked` how much processor
time went by between two turns of the loop at most, since it was asked before. That is time in which
the loop could not run because of this very process (what decodes in another thread holds the
interpreter too), on a busy machine as on an idle one.
"""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import httpx2
import msgspec
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

TICK_S = 0.002


class Blocked:
    """ASGI middleware that answers `/blocked`."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.worst_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/blocked":
            worst_s, self.worst_s = self.worst_s, 0.0
            await Response(msgspec.json.encode(worst_s))(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def watch(self) -> None:
        while True:
            before_s = time.process_time()
            await asyncio.sleep(TICK_S)
            self.worst_s = max(self.worst_s, time.process_time() - before_s)


def reference_s() -> float:
    """Processor time that this machine takes for what the loop is allowed to do at once: a million
    token ids are decoded."""
    ids = msgspec.json.encode(list(range(1 << 20)))
    decoder = msgspec.json.Decoder(list[int])
    start_s = time.thread_time()
    decoder.decode(ids)
    return time.thread_time() - start_s


async def main(models: Path) -> None:
    from localinfra.api.app import create_app
    from localinfra.config import settings as config_file
    from localinfra.models import catalog as catalog_file
    from localinfra.runtime import Runtime

    config = config_file.load(models)
    app = Blocked(create_app(Runtime(config.server, catalog_file.load(config))))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    watch = asyncio.create_task(app.watch())
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], reference_s(), flush=True)
    await serving
    watch.cancel()


class WatchedServer:
    """The other end: starts the program, and ends it."""

    def __init__(self, models: Path, log: int | None = None):
        """`log`: where its lines go, as `subprocess` has it; None: to this process's stderr."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(models)], stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert self._process.stdout
        try:
            port, reference = self._process.stdout.readline().split()
        except ValueError:
            self.__exit__(None, None, None)
            raise
        self.port = int(port)
        self.url = f"http://127.0.0.1:{port}"
        self.reference_s = float(reference)

    def __enter__(self) -> "WatchedServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout
            self._process.stdout.close()

    def blocked_s(self) -> float:
        """Since it was asked last."""
        return float(httpx2.get(f"{self.url}/blocked", timeout=600).text)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
