"""Whether llama.cpp runs here is found out in a child process, once for each build and CPU."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from localinfra import llama_usable, machine
from localinfra.errors import ModelUnavailable

FAKE = "def llama_backend_init(): ...\ndef llama_print_system_info(): {body}\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "llama"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Stands in for llama_cpp, where a child imports it."""

    def write(body: str) -> None:
        (tmp_path / "llama_cpp.py").write_text(FAKE.format(body=body))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    return write


def test_a_build_that_runs_is_tried_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama_usable.check()
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(llama_usable, "tried", lambda: "tried again")
    llama_usable.check()
    monkeypatch.setattr(machine, "cpu", lambda: "another 1234abcd")
    with pytest.raises(ModelUnavailable, match="tried again"):
        llama_usable.check()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("import os; os.kill(os.getpid(), 4)", "another CPU, and dies of an illegal instruction"),
        ("import os; os.kill(os.getpid(), 11)", "it crashes when it is loaded \\(SIGSEGV\\)"),
        ("raise OSError('no libgomp')", "it can't be loaded \\(OSError: no libgomp\\)"),
        ("return 'CPU : AVX2 = 1 | SVE = 1'", "compiled for another CPU, with SVE"),
    ],
)
def test_a_build_that_does_not_run_is_named_with_the_command_that_replaces_it(
    body: str,
    fault: str,
    built: Callable[[str], None],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : avx2\n")
    monkeypatch.setattr(llama_usable, "CPUINFO", tmp_path / "cpuinfo")
    built(body)
    with pytest.raises(ModelUnavailable, match=fault) as caught:
        llama_usable.check()
    assert "This replaces it: " in caught.value.message
    assert not cache.exists()


def test_what_is_compiled_in_is_read_from_llama_cpps_own_line() -> None:
    text = "CUDA : F16C = 1 | CPU : SSE3 = 1 | AVX2 = 0 | FMA = 1 | "
    assert llama_usable.compiled_features(text) == ("SSE3", "FMA")
