"""`rpc_servers`: layers on other machines; a real one, where llama.cpp has its RPC backend."""

import asyncio
import socket
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from children import started
from models.tiny_gguf import tiny_llama

from localinfra.engine.engine import Engine
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, MIB
from localinfra.llama import peers
from localinfra.llama.library import llama_cpp
from localinfra.llama.load_log import footprint_of
from localinfra.llama.peers import PeerDevice, PeersUnusable
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import read_header
from localinfra.models.sources import PathSource
from localinfra.text import placing
from localinfra.text.draft import draft_entry
from localinfra.text.identity import identity
from localinfra.text.loading import load_text_model
from localinfra.text.placing import plan_text
from localinfra.text.sizing import context_settings

HAS_RPC = llama_cpp.llama_supports_rpc()
PEER = """
import ctypes, sys
from localinfra.llama.build_info import ggml
from localinfra.llama.library import llama_cpp
llama_cpp.llama_backend_init()
by_name = ggml("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)
takes = ctypes.c_void_p, ctypes.c_char_p
address = ggml("ggml_backend_reg_get_proc_address", ctypes.c_void_p, *takes)
start = address(by_name(b"RPC"), b"ggml_backend_rpc_start_server")
device = ggml("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(0)
types = ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p
devices = (ctypes.c_void_p * 1)(device)
ctypes.CFUNCTYPE(None, *types)(start)(sys.argv[1].encode(), None, 1, 1, ctypes.addressof(devices))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_llama(layers=4).write(tmp_path / "tiny.gguf")


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("endpoint", ["10.0.0.2:50052", "gpu-box.lan:1", "[fe80::1]:50052"])
def test_a_peer_is_an_address_with_a_port(endpoint: str) -> None:
    table = {"kind": "text", "source": "path:/x.gguf", "rpc_servers": [endpoint]}
    hook = {"dec_hook": lambda of, value: PathSource(Path(value))}
    assert msgspec.convert(table, TextModelEntry, **hook).rpc_servers == (endpoint,)  # type: ignore[call-overload]
    for wrong in ("10.0.0.2", "http://x:1", "a b:1", "x:", "::1:50052"):
        with pytest.raises(msgspec.ValidationError, match="rpc_servers"):
            msgspec.convert(table | {"rpc_servers": [wrong]}, TextModelEntry, **hook)  # type: ignore[call-overload]


@pytest.mark.skipif(HAS_RPC, reason="this llama.cpp has its RPC backend")
def test_a_build_without_rpc_is_named_with_the_command_that_makes_one(path: Path) -> None:
    entry = TextModelEntry(source=PathSource(path), rpc_servers=("10.0.0.2:50052",))
    with pytest.raises(ModelUnavailable, match=r"without its RPC .* CMAKE_ARGS=-DGGML_RPC=on "):
        load_text_model("split", entry, 8)


def test_a_peer_that_is_not_there_is_named(closed_port: str) -> None:
    with pytest.raises(PeersUnusable, match=f"{closed_port} can't be reached .Connection refused"):
        peers.check_reachable(closed_port)
    with pytest.raises(PeersUnusable, match=r"no-such-host\.invalid:1 can't be reached"):
        peers.check_reachable("no-such-host.invalid:1")


@pytest.mark.parametrize(
    ("dies", "said"),
    [
        ("print('RPC handshake failed for x', file=sys.stderr); os.abort()", "handshake failed"),
        ("os._exit(3)", "status 3"),
        ("os.kill(os.getpid(), 9)", "status -9"),
    ],
)
def test_a_peer_that_would_end_the_process_ends_a_child(
    dies: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "COMMAND", [sys.executable, "-c", f"import os, sys; {dies}"])
    monkeypatch.setattr(peers, "check_compiled", lambda: None)
    monkeypatch.setattr(peers, "check_reachable", lambda server: None)
    with pytest.raises(PeersUnusable, match=f"10.0.0.2:1: .*{said}"):
        peers.ask(["10.0.0.2:1"])


def test_a_peer_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "COMMAND", [sys.executable, "-c", "import time; time.sleep(3600)"])
    monkeypatch.setattr(peers, "LIMIT_S", 0.01)
    monkeypatch.setattr(peers, "check_compiled", lambda: None)
    monkeypatch.setattr(peers, "check_reachable", lambda server: None)
    with pytest.raises(PeersUnusable, match=r"no answer within 0\.01 s"):
        peers.ask(["10.0.0.2:1"])


def test_peers_come_before_gpus_and_take_what_fits(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [PeerDevice("a:1", 0, 8 << 30), PeerDevice("a:1", 1, 0)]
    monkeypatch.setattr(peers, "ask", lambda servers: found)
    monkeypatch.setattr(placing, "free_memory", lambda: {"cuda:0": 8 << 30})
    entry = TextModelEntry(source=PathSource(path), rpc_servers=("a:1",))
    plan = plan_text("split", entry, path, read_header(path), {CPU: 8 << 30})
    assert plan.gpu_layers == 5 and plan.tensor_split == (5.0, 0.0, 0.0)
    assert plan.expected.bytes_on.keys() == {CPU, "rpc:a:1/0"}
    assert plan.expected.fits({CPU: 8 << 30, "cuda:0": 0})  # peers' memory is in no budget
    alone = msgspec.structs.replace(entry, gpu_layers=0)
    assert plan_text("split", alone, path, read_header(path), {CPU: 8 << 30}).gpu_layers == 0


def test_what_a_peer_takes_is_not_this_machines() -> None:
    line = "load_tensors: RPC0[10.0.0.2:50052] model buffer size =   64.00 MiB"
    assert footprint_of([line]).bytes_on == {"rpc:10.0.0.2:50052/0": 64 * MIB}


def test_safer_settings_drafts_and_kept_prefixes_know_of_peers(path: Path) -> None:
    entry = TextModelEntry(source=PathSource(path), rpc_servers=("a:1",))
    assert entry.safer.rpc_servers == ()
    header = read_header(path)
    settings = context_settings(entry, 512)
    assert draft_entry(entry, header, settings).rpc_servers == ()
    alone = msgspec.structs.replace(entry, rpc_servers=())
    known = [identity(each, header, settings, is_offloaded=True) for each in (entry, alone)]
    assert known[0] != known[1] and "a:1" not in repr(known[1])


@pytest.fixture
def peer(closed_port: str) -> Iterator[str]:
    """A real one, with this machine's CPU as its device."""
    with started([sys.executable, "-c", textwrap.dedent(PEER), closed_port]) as process:
        host, _, port = closed_port.partition(":")
        waits = threading.Event()
        while process.poll() is None:
            try:
                socket.create_connection((host, int(port)), timeout=60).close()
                break
            except OSError:
                waits.wait(0.05)
        yield closed_port
        process.kill()


@pytest.mark.skipif(not HAS_RPC, reason="this llama.cpp was compiled without its RPC backend")
def test_a_model_on_a_peer_writes_what_it_writes_here(path: Path, peer: str) -> None:
    entry = TextModelEntry(source=PathSource(path), context_length=64)

    async def tokens(entry: TextModelEntry) -> list[int | None]:
        plan = plan_text("tiny", entry, path, read_header(path), {})
        context, model = placing.place("tiny", entry, plan)
        assert model.is_offloaded is bool(entry.rpc_servers)
        engine = Engine(context, EngineSettings())
        request = GenerationRequest(
            [50, 60, 70], 10, GenerationParams(SamplingParams(temperature=0))
        )
        async with engine.generate([request]) as generation:
            found = [event.token async for events in generation for event in events]
        await asyncio.to_thread(engine.close)
        return found

    there = msgspec.structs.replace(entry, rpc_servers=(peer,))
    assert asyncio.run(tokens(there)) == asyncio.run(tokens(entry))
