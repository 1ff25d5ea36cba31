"""One run of `scripts/fuzz`: a server, its watches, the attempts and the report."""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

from fuzzing.client import Client
from fuzzing.control import GREEDY, SEEDED, Control, Health, load_all
from fuzzing.generator import Generator
from fuzzing.judging import Judge
from fuzzing.report import Report
from fuzzing.run import Run, for_minutes, numbers
from fuzzing.served import FuzzedServer, fuzzed
from fuzzing.wire import AUTHORIZED, HttpRequest, whole


def fuzz(options: argparse.Namespace) -> int:
    """The exit status."""
    with tempfile.TemporaryDirectory() as folder, fuzzed(Path(folder)) as server:
        load_all(server.port)
        return sent(server, options)


def sent(server: FuzzedServer, options: argparse.Namespace) -> int:
    document = document_of(server.port)
    generator = Generator(document, options.seed, options.route)
    run = Run(generator, Judge(document), server.port, options.out)
    first, count = options.first, options.requests
    if options.only is not None:
        first, count = options.only, 1
    controls = [Control(server.port, body=body) for body in (GREEDY, SEEDED)]
    for control in controls:
        control.faults += filter(None, [control.ask()])  # alone, before all else
    watches = [*controls, Health(server.port)]
    report = Report(run.findings, watches, server, count)
    for watch in watches:
        watch.start()
    threading.Thread(target=report.tell_progress, daemon=True).start()
    began, is_in_time = time.monotonic(), for_minutes(options.minutes)
    run.send(numbers(first, count), options.workers, lambda: is_in_time() and server.is_alive)
    for watch in watches:
        watch.end()
    return report.tell(time.monotonic() - began)


def document_of(port: int) -> dict[str, object]:
    request = HttpRequest("GET", b"/openapi.json", ((b"host", b"localhost"), AUTHORIZED))
    client = Client(port, 60)
    document: dict[str, object] = json.loads(client.send(whole(request)).answers[0].body)
    client.close()
    return document
