"""What the parts share: the surroundings that the first part has made, and servers over it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchlib import ROOT, Server, Stream, Unmeasurable, uncounted

from localinfra.backend_detect import output_of


@dataclass(frozen=True)
class Surroundings:
    """What a part finds on this machine. `None`: not there."""

    work: Path  # for files of any size
    is_quick: bool
    gpu: str  # its name; "" without one that llama.cpp can use
    vocabulary: Path | None  # a GGUF file with SmolLM2's words
    llama_server: Path | None
    headers: Path | None  # of llama.cpp
    libraries: Path | None

    @property
    def threads(self) -> int:
        if self.is_quick:
            return 1  # several wait long for each other on busy cores
        return min(16, len(os.sched_getaffinity(0)))

    def save(self) -> None:
        facts = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }
        (self.work / "surroundings.json").write_text(json.dumps(facts))

    @staticmethod
    def load(work: Path) -> "Surroundings":
        facts = json.loads((work / "surroundings.json").read_text())
        paths = ("work", "vocabulary", "llama_server", "headers", "libraries")
        facts |= {name: Path(facts[name]) if facts[name] else None for name in paths}
        return Surroundings(**facts)


def nvidia_gpu() -> str:
    """Its name and driver, "" without one."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return (output_of(query).splitlines() or [""])[0].strip()


def used_gpu_bytes() -> int:
    """Of the first GPU, by all programs."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    lines = output_of(query).splitlines()
    return int(lines[0]) << 20 if lines else 0


class ReadyServer(Server):
    """Waits for /health alone: it need not have a chat model."""

    def say_hello(self) -> Stream:
        stream = self.request("GET", "/health", b"")
        self.wait(lambda: bool(stream.ended_at))
        if not b"".join(stream.received).startswith(b"HTTP/1.1 200"):
            raise Unmeasurable("it is not ready")
        return stream


@contextmanager
def serving(
    around: Surroundings, settings: str, model: str, timeout_s: float = 240
) -> Iterator[Server]:
    """localinfra with these settings: models.toml's text. The server's log is in `work`."""
    folder = around.work / "serving"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "models.toml").write_text(uncounted(settings))
    command = [sys.executable, "-m", "localinfra", "serve", "--port", "{port}"]
    with ReadyServer(
        [*command, "--config", str(folder / "models.toml")], ROOT, [], model, timeout_s
    ) as server:
        yield server


@contextmanager
def llama_serving(
    around: Surroundings, model: Path, *options: str, timeout_s: float = 240
) -> Iterator[Server]:
    """llama-server with this file. Its clients' model has any name."""
    assert around.llama_server
    command = [str(around.llama_server), "--host", "127.0.0.1", "--port", "{port}"]
    command += ["-m", str(model), "-t", str(around.threads), *options]
    if around.gpu:
        command += ["-ngl", "999"]
    with ReadyServer(command, around.work, [], "any", timeout_s) as server:
        yield server


def text_model(name: str, path: Path, **settings: object) -> str:
    """A table of models.toml."""
    given: Mapping[str, object] = {"kind": "text", "source": str(path), **settings}
    lines = [f"{key} = {json.dumps(value)}" for key, value in given.items()]
    return "\n".join((f'[model."{name}"]', *lines, ""))


def has_setting(name: str) -> bool:
    from localinfra.models.entries import TextModelEntry

    return name in TextModelEntry.__struct_fields__


def installed_parts() -> tuple[Path | None, Path | None]:
    """The headers and libraries of the installed llama.cpp, if it has both."""
    purelib = Path(sysconfig.get_path("purelib"))
    headers, libraries = purelib / "include", purelib / "llama_cpp" / "lib"
    is_whole = (headers / "llama.h").exists() and any(libraries.glob("libllama.*"))
    return (headers, libraries) if is_whole else (None, None)


def compiled_loop(around: Surroundings) -> Path | None:
    """The bare loop's program; None if it can't be compiled."""
    target = around.work / "loop"
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if not (around.headers and around.libraries and compiler):
        return None
    source = Path(__file__).with_name("loop.cpp")
    links = [f"-L{around.libraries}", "-lllama", "-lggml", "-lggml-base"]
    command = [compiler, "-O2", "-std=c++17", f"-I{around.headers}", str(source), *links]
    command += [f"-Wl,-rpath,{around.libraries}", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-1000:], flush=True)
    return None if done.returncode else target
