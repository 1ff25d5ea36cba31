"""Nothing `read_header` lets through crashes llama.cpp: damaged files, used in a child process."""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from children import end
from models.mutations import Mutation, mutations, projector_mutations
from models.tiny_gguf import TinyModel, spm_vocabulary, tiny_gemma3, tiny_llama, tiny_mamba
from models.tiny_hybrids import tiny_lfm2
from models.tiny_projectors import (
    tiny_gemma3_projector,
    tiny_qwen2vl_projector,
    tiny_ultravox,
)
from models.tiny_seeing import tiny_qwen2vl

from localinfra.models.gguf.reader import BadGguf, read_header, read_projector

ANSWER_S = 30  # a file takes milliseconds; one this slow hangs
LOADER = Path(__file__).parent / "load_gguf.py"
PROJECTOR_LOADER = LOADER.with_name("load_projector.py")


class Child:
    """A process that uses files one after another, started again after each crash."""

    def __init__(self, *program: str | Path) -> None:
        self.program = program or (LOADER,)
        self.process: subprocess.Popen[str] | None = None

    def use(self, path: Path) -> str:
        """`loaded`, `refused`, or how the process ended."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, self.program)],
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # its backtrace starts a debugger
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        answered, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        answer = self.process.stdout.readline().strip() if answered else ""
        return answer or f"crashed ({self.close()})"

    def close(self) -> str:
        if self.process is None:
            return "not running"
        process, self.process = self.process, None
        try:
            process.communicate(timeout=5)
            return str(process.returncode)
        except subprocess.TimeoutExpired:
            return "hangs"
        finally:
            end(process)


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


def outcomes(
    child: Child,
    path: Path,
    changed: Iterator[Mutation],
    read: Callable[[Path], object] = read_header,
) -> dict[str, str]:
    """The outcome for each file: `bad` if we refuse it, else the child's report."""
    result = {}
    for name, make in changed:
        path.write_bytes(make())
        try:
            read(path)
            result[name] = child.use(path)
        except BadGguf:
            result[name] = "bad"
    return result


def tiny_llama_spm() -> TinyModel:
    return tiny_llama(spm_vocabulary)


def tiny_llama_experts() -> TinyModel:
    return tiny_llama(experts=4)


MODELS = (tiny_llama, tiny_llama_spm, tiny_llama_experts, tiny_gemma3, tiny_mamba, tiny_lfm2)


@pytest.mark.parametrize("make", MODELS)
def test_damaged_files_are_refused_or_harmless(
    make: Callable[[], TinyModel], child: Child, tmp_path: Path
) -> None:
    every = list(mutations(make, flips=100))
    some = [every[0], *every[MODELS.index(make) + 1 :: 15]]
    result = outcomes(child, tmp_path / "damaged.gguf", iter(some))
    assert {name: end for name, end in result.items() if end.startswith("crashed")} == {}
    assert result["as it was"] == "loaded"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("make", MODELS)
def test_every_damaged_file_is_refused_or_harmless(
    make: Callable[[], TinyModel], child: Child, tmp_path: Path
) -> None:
    result = outcomes(child, tmp_path / "damaged.gguf", mutations(make, seed=1, flips=2000))
    assert {name: end for name, end in result.items() if end.startswith("crashed")} == {}


PAIRS = (
    (tiny_gemma3, tiny_gemma3_projector),
    (tiny_qwen2vl, tiny_qwen2vl_projector),
    (tiny_llama, tiny_ultravox),
)


@pytest.mark.parametrize(("text_model", "make"), PAIRS)
def test_damaged_projectors_are_refused_or_harmless(
    text_model: Callable[[], TinyModel], make: Callable[[], TinyModel], tmp_path: Path
) -> None:
    model = text_model().write(tmp_path / "model.gguf")
    header = read_header(model)
    child = Child(PROJECTOR_LOADER, model)
    every = list(projector_mutations(make, flips=100))
    some = [every[0], *every[1::60]]
    read = partial(read_projector, model=header)
    result = outcomes(child, tmp_path / "damaged.gguf", iter(some), read)
    child.close()
    assert {name: end for name, end in result.items() if end.startswith("crashed")} == {}
    assert result["as it was"] == "loaded"
