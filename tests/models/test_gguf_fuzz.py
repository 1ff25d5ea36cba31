"""Nothing `read_header` lets through crashes llama.cpp: damaged files, used in a child process."""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import end
from models.mutations import Mutation, mutations
from models.tiny_gguf import TinyModel, spm_vocabulary, tiny_gemma3, tiny_llama, tiny_mamba
from models.tiny_hybrids import tiny_lfm2

from localinfra.models.gguf.reader import BadGguf, read_header

ANSWER_S = 30  # a file takes milliseconds; one this slow hangs
LOADER = Path(__file__).parent / "load_gguf.py"


class Child:
    """A process that uses files one after another, started again after each crash."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def use(self, path: Path) -> str:
        """`loaded`, `refused`, or how the process ended."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(LOADER)],
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


def outcomes(child: Child, path: Path, changed: Iterator[Mutation]) -> dict[str, str]:
    """The outcome for each file: `bad` if we refuse it, else the child's report."""
    result = {}
    for name, make in changed:
        path.write_bytes(make())
        try:
            read_header(path)
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
