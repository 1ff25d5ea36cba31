"""Threads of a projector: all cores alone, fewer beside other work, and none afterwards."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from models.tiny_gguf import tiny_gemma3
from models.tiny_projectors import tiny_gemma3_projector

from localinfra.llama import projector as module
from localinfra.llama.library import llama_cpp
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.openmp import CAN_LIMIT, with_threads
from localinfra.llama.projector import Projector, ProjectorSettings
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.pictures import Pixels
from localinfra.text.projector import threads

TASKS = Path("/proc/self/task")
PICTURE = Pixels(56, 56, bytes(at % 251 for at in range(56 * 56 * 3)))


@pytest.mark.skipif(not CAN_LIMIT, reason="built without GCC's OpenMP")
def test_parallel_regions_of_a_call_are_limited_and_later_ones_are_not() -> None:
    limit = llama_cpp._lib.omp_get_thread_limit
    before = limit()
    assert with_threads(3, limit) == 3 != before
    assert limit() == before


def test_a_projector_leaves_threads_to_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def watched(limit: int, work: object) -> int:
        limits.append(limit)
        return with_threads(limit, work)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(module, "with_threads", watched)
    model = Model(tiny_gemma3().write(tmp_path / "m.gguf"), ModelSettings(vocabulary_only=True))
    path = tiny_gemma3_projector().write(tmp_path / "p.gguf")
    projector = Projector(path, model, ProjectorSettings(threads=3, spared=1))
    alone, beside = (
        projector.read(PICTURE, lambda: None, lambda has=has: has)  # type: ignore[misc]
        for has in (False, True)
    )
    assert limits == [3, 2]
    assert [part.tokens for part in alone] == [part.tokens for part in beside]
    projector.close()


@pytest.mark.skipif(not TASKS.exists(), reason="Linux tells of threads")
def test_a_projectors_threads_end_with_its_picture(tmp_path: Path) -> None:
    model = Model(tiny_gemma3().write(tmp_path / "m.gguf"), ModelSettings(vocabulary_only=True))
    path = tiny_gemma3_projector().write(tmp_path / "p.gguf")
    projector = Projector(path, model, ProjectorSettings(threads=3))
    during = []

    def encoded(pixels: Pixels) -> None:
        projector.read(pixels, lambda: during.append(len([*TASKS.iterdir()])))
        during.append(len([*TASKS.iterdir()]))

    with ThreadPoolExecutor(1) as thread:
        for _ in range(2):
            thread.submit(encoded, PICTURE).result()
    projector.close()
    assert during == [during[0]] * 4


def test_threads_that_an_entry_fixes_are_all_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localinfra.machine.usable_cores", lambda: 8)
    entry = TextModelEntry(source=PathSource(Path("m.gguf")))
    assert threads(entry) == ((8, 1) if CAN_LIMIT else (7, 0))
    fixed = TextModelEntry(source=PathSource(Path("m.gguf")), threads=4)
    assert threads(fixed) == (4, 0)
