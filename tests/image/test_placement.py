"""Rules for placing a pipeline, from sizes and free memory."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from localinfra.errors import ModelUnavailable
from localinfra.image.placement import GIB, Placement, decide, part_elements, torch_free, weights
from localinfra.models.entries import ImageModelEntry
from localinfra.models.sources import PackageSource

# Numbers of weights in FLUX.1 Schnell
FLUX = {
    "transformer": 11_900_000_000,
    "text_encoder_2": 4_760_000_000,
    "text_encoder": 123_000_000,
    "vae": 84_000_000,
}


SOURCE = PackageSource("none", "none")
ENTRY = ImageModelEntry(source=SOURCE)


def placed(
    gib: float, device: str = "cuda", transformer: Path | None = None, **settings: Any
) -> Placement:
    entry = ImageModelEntry(source=SOURCE, **settings)
    return decide(entry, transformer, FLUX, {device: int(gib * GIB), "cpu": 64 * GIB})


@pytest.fixture
def q4(tmp_path: Path) -> Path:
    """A sparse file of the size of a Q4_K_S transformer, 6.8 GB."""
    path = tmp_path / "flux1-schnell-Q4_K_S.gguf"
    with path.open("wb") as file:
        file.truncate(6_800_000_000)
    return path


@pytest.mark.parametrize(
    ("gib", "offload", "quantize"),
    [(79, "none", "none"), (47, "none", "none"), (31, "none", "float8"), (23.2, "none", "float8"),
     (15.5, "model", "float8"), (11.5, "group", "none"), (7.5, "group", "none")],
)  # fmt: skip
def test_a_folders_weights_on_a_gpu(gib: float, offload: str, quantize: str) -> None:
    found = placed(gib)
    assert (found.device, found.dtype) == ("cuda", "bfloat16")
    assert (found.offload, found.quantize) == (offload, quantize)
    assert found.vae_tiling == (gib < 8) and found.vae_slicing


@pytest.mark.parametrize(
    ("gib", "offload"), [(23.2, "none"), (15.5, "model"), (11.5, "model"), (7.5, "group")]
)
def test_a_gguf_transformer_on_a_gpu(gib: float, offload: str, q4: Path) -> None:
    found = placed(gib, transformer=q4)
    assert (found.offload, found.quantize) == (offload, "none")


def test_a_mac_holds_everything_or_says_what_would_fit(q4: Path) -> None:
    found = placed(48, "mps")
    assert (found.dtype, found.offload, found.quantize) == ("bfloat16", "none", "none")
    assert placed(21, "mps", transformer=q4).offload == "none"
    with pytest.raises(ModelUnavailable, match="to a GGUF"):
        placed(21, "mps")
    with pytest.raises(ModelUnavailable, match="to a smaller GGUF"):
        placed(16, "mps", transformer=q4)


def test_a_cpu_runs_in_float32_if_it_has_the_memory() -> None:
    found = decide(ENTRY, None, FLUX, {"cpu": 66 * GIB})
    assert (found.device, found.dtype, found.offload) == ("cpu", "float32", "none")
    with pytest.raises(
        ModelUnavailable, match=r"62\.8 GiB in float32, but only 21\.5 GiB are free"
    ):
        decide(ENTRY, None, FLUX, {"cpu": 24 * GIB})
    assert decide(ENTRY, None, FLUX, {"cpu": 0}).device == "cpu"  # free memory is unknown


def test_images_of_a_request_are_made_together_if_a_large_gpu_has_room() -> None:
    whole = placed(79)
    assert whole.images_at_once(1024, 1024, 40 * GIB) == 4
    assert whole.images_at_once(1024, 1024, 5 * GIB) == 2
    assert whole.images_at_once(512, 512, 5 * GIB) == 4
    assert whole.images_at_once(64, 64, 1 * GIB) == 1
    assert placed(15.5).images_at_once(64, 64, 10 * GIB) == 1  # parts come and go
    assert placed(15.5, images_at_once=3).images_at_once(1024, 1024, 0) == 3


def test_large_images_are_decoded_in_tiles() -> None:
    assert placed(79).tiles(2048, 1024) and not placed(79).tiles(1024, 1024)
    assert placed(7.5).tiles(64, 64) and not decide(ENTRY, None, FLUX, {"cpu": 0}).tiles(2048, 2048)


def test_offloaded_parts_need_room_in_main_memory() -> None:
    with pytest.raises(ModelUnavailable, match="free for them on the CPU"):
        decide(ENTRY, None, FLUX, {"cuda": 15 * GIB, "cpu": 12 * GIB})


def test_a_missing_device_or_part_is_named() -> None:
    with pytest.raises(ModelUnavailable, match="PyTorch only finds cpu"):
        decide(ImageModelEntry(source=SOURCE, device="cuda"), None, FLUX, {"cpu": 64 * GIB})
    with pytest.raises(ModelUnavailable, match="no transformer"):
        decide(ENTRY, None, {"vae": 100}, {"cpu": 64 * GIB})
    with pytest.raises(ModelUnavailable, match=r"not a \.gguf or \.safetensors"):
        placed(15, transformer=Path(__file__))


def test_models_toml_overrides_every_choice() -> None:
    found = placed(
        7.5, device="cpu", dtype="float16", offload="group", quantize="float8", vae_tiling=False,
        vae_slicing=False, attention="native", compile=True,
    )  # fmt: skip
    assert found == Placement(
        "cpu", "float16", "group", "float8", False, False, "native", True, None
    )
    assert str(found) == (
        "cpu in float16, transformer kept in float8, layers move there when needed, native "
        "attention, compiled"
    )


def write_safetensors(file: Path, shapes: list[list[int]]) -> None:
    file.parent.mkdir(exist_ok=True)
    header = {f"t{at}": {"dtype": "F32", "shape": shape} for at, shape in enumerate(shapes)}
    encoded = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded)


def test_weights_are_counted_from_the_headers_of_their_files(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "vae" / "a.safetensors", [[2, 3], [4]])
    write_safetensors(tmp_path / "vae" / "b.safetensors", [[5], []])
    write_safetensors(tmp_path / "transformer" / "a.safetensors", [[7, 7]])
    assert part_elements(tmp_path) == {"transformer": 49, "vae": 16}


@pytest.mark.parametrize("data", [b"", b"\xff" * 9, struct.pack("<Q", 5) + b"[1,2]"])
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "a.safetensors").write_bytes(data)
    with pytest.raises(ModelUnavailable, match=r"a\.safetensors is not a safetensors file"):
        part_elements(tmp_path)
    with pytest.raises(ModelUnavailable, match="no safetensors files"):
        part_elements(tmp_path / "vae")


@pytest.mark.parametrize(
    ("gib", "on_gpu", "in_main_memory"),
    [
        (47, 33.7, 0),  # all parts stay on the GPU
        (23.2, 21.8, 0),  # with the transformer in float8
        (15.5, 11.9, 21.8),  # one part at a time
        (7.5, 0, 33.7),  # one layer at a time
    ],
)
def test_weights_count_where_they_are(gib: float, on_gpu: float, in_main_memory: float) -> None:
    found = weights(placed(gib), None, FLUX).bytes_on
    assert found["cuda:0"] == pytest.approx(on_gpu * 1e9, abs=1e8)
    assert found.get("cpu", 0) == pytest.approx(in_main_memory * 1e9, abs=1e8)


def test_weights_on_a_cpu_are_in_main_memory() -> None:
    found = weights(placed(0, "cpu", dtype="bfloat16"), None, FLUX).bytes_on
    assert found == {"cpu": 2 * sum(FLUX.values())}


def test_a_gpu_that_has_failed_has_no_room_and_stops_nobody_else() -> None:
    def fail(device: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    cuda = SimpleNamespace(is_initialized=lambda: True, mem_get_info=fail)
    mps = SimpleNamespace(is_available=lambda: False)
    torch = SimpleNamespace(cuda=cuda, backends=SimpleNamespace(mps=mps))
    assert torch_free(torch) == {"cuda:0": 0}
