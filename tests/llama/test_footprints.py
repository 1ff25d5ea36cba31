"""What llama.cpp says it has taken, and what was expected of it."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from models.tiny_gguf import TinyModel, tiny_gemma3, tiny_llama, tiny_mamba
from models.tiny_hybrids import tiny_lfm2, tiny_qwen35
from models.tiny_latent import tiny_deepseek2
from models.tiny_mtp import tiny_glm4
from models.tiny_others import tiny_llama4

from localinfra.footprint import CPU, MIB, Footprint
from localinfra.llama.build_info import unused_features
from localinfra.llama.context import LlamaContext
from localinfra.llama.load_log import device_of, footprint_of
from localinfra.llama.model import LoadFailed, Model, ModelSettings, NoContext
from localinfra.llama.settings import ContextSettings
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import read_header
from localinfra.models.kv_cache import ROLLS_BACK, cache_bytes
from localinfra.models.sources import PathSource
from localinfra.text import placing
from localinfra.text.placing import (
    TextPlan,
    place,
    plan_text,
    warn_of_slow_layers,
)
from localinfra.text.sizing import cache_shape, context_settings


def six_gemma3() -> TinyModel:
    """The sixth layer has full attention."""
    return tiny_gemma3(layers=6)


PRECISION = MIB // 100  # of a line in the log

LOG = """load_tensors:        CUDA0 model buffer size =  4000.50 MiB
load_tensors:   CPU_Mapped model buffer size =   281.25 MiB
load_tensors:   CPU_REPACK model buffer size =    10.00 MiB
llama_context:  CUDA_Host  output buffer size =     4.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    96.00 MiB
llama_kv_cache: size =  608.00 MiB ( 4096 cells,  32 layers,  9/1 seqs), K (f16):  304.00 MiB
llama_memory_recurrent:      CUDA1 RS buffer size =     2.00 MiB
sched_reserve:      CUDA0 compute buffer size =   100.00 MiB
sched_reserve:      CUDA0 compute buffer size =   120.00 MiB
~llama_context:      CUDA0 compute buffer size is 120.0000 MiB, matches expectation of 120.0000 MiB
llama_adapter_lora_init_impl:      CUDA1 LoRA buffer size =     1.00 MiB""".splitlines()


def test_each_buffer_counts_on_its_device() -> None:
    found = footprint_of(LOG)
    assert found.bytes_on == {
        "cuda:0": round((4000.5 + 512 + 96 + 120) * MIB),
        "cuda:1": 3 * MIB,
        CPU: round((281.25 + 10 + 4) * MIB),
    }
    assert found.mapped == 281.25 * MIB


@pytest.mark.parametrize(
    ("name", "device"),
    [("MTL0", "mps"), ("ROCm1", "cuda:1"), ("Vulkan0", "vulkan:0"), ("CPU", CPU), ("BLAS", CPU)],
)
def test_devices_have_their_names_in_torch(name: str, device: str) -> None:
    assert device_of(name) == device


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny_llama(layers=5),
        lambda: tiny_gemma3(layers=13),
        lambda: tiny_mamba(layers=9),
        lambda: tiny_lfm2(layers=8),
        lambda: tiny_qwen35(layers=8),
        lambda: tiny_deepseek2(layers=5),
    ],
    ids=["full", "windows", "recurrent", "hybrid", "delta net", "latent"],
)
@pytest.mark.parametrize("kv_type", ["f16", "f32"])
@pytest.mark.parametrize("is_large", [False, True])
def test_a_cache_takes_what_the_header_says(
    make: Callable[[], TinyModel],
    is_large: bool,
    kv_type: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = make().write(tmp_path / "tiny.gguf")
    entry = TextModelEntry(
        source=PathSource(path), kv_type=kv_type, sequences=64, kv_cache_tokens=20_000  # type: ignore[arg-type] # a parameter
    )  # fmt: skip
    settings = context_settings(entry, 512)
    if is_large:
        rolls_back = read_header(path).architecture in ROLLS_BACK
        settings = msgspec.structs.replace(
            settings, full_window=True, max_rollback=3 if rolls_back else 0
        )
    caplog.set_level("DEBUG", "localinfra.llama")
    LlamaContext(Model(path, ModelSettings()), settings).close()
    lines = [line for line in caplog.messages if " KV buffer" in line or " RS buffer" in line]
    [measured] = footprint_of(lines).bytes_on.values()
    expected = sum(cache_bytes(read_header(path), cache_shape(settings)))
    assert abs(measured - expected) <= PRECISION * len(lines)


@pytest.mark.parametrize("make", [tiny_llama, six_gemma3, tiny_mamba, tiny_lfm2, tiny_llama4])
@pytest.mark.parametrize(("length", "sequences"), [(300, 4), (512, 7), (700, 64)])
def test_separate_caches_take_what_the_header_says(
    make: Callable[[], TinyModel],
    length: int,
    sequences: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = make().write(tmp_path / "tiny.gguf")
    entry = TextModelEntry(source=PathSource(path), sequences=sequences, separate_caches=True)
    settings = context_settings(entry, length)
    caplog.set_level("DEBUG", "localinfra.llama")
    context = LlamaContext(Model(path, ModelSettings()), settings)
    context.close()
    lines = [line for line in caplog.messages if " KV buffer" in line or " RS buffer" in line]
    [measured] = footprint_of(lines).bytes_on.values()
    expected = sum(cache_bytes(read_header(path), cache_shape(settings)))
    assert abs(measured - expected) <= PRECISION * len(lines)
    assert context.num_cells == -(-length // 256) * 256 * sequences


@pytest.mark.parametrize("make", [tiny_llama, six_gemma3, tiny_mamba, tiny_lfm2])
@pytest.mark.parametrize("is_separate", [False, True])
def test_a_model_takes_about_what_is_expected(
    make: Callable[[], TinyModel], is_separate: bool, tmp_path: Path
) -> None:
    path = make().write(tmp_path / "tiny.gguf")
    entry = TextModelEntry(
        source=PathSource(path), context_length=2_000 if is_separate else 512,
        kv_cache_tokens=20_000, separate_caches=is_separate,
    )  # fmt: skip
    plan = plan_text("tiny", entry, path, read_header(path), {})
    context, _ = place("tiny", entry, plan)
    context.close()
    expected, measured = plan.takes.bytes_on[CPU], context.footprint.bytes_on[CPU]
    assert measured <= 1.1 * expected + MIB and expected <= 2 * measured
    assert abs(context.footprint.mapped - plan.takes.mapped) <= PRECISION


@pytest.mark.parametrize("mtp", [False, True])
def test_layers_for_multi_token_prediction_count_where_they_are_loaded(
    mtp: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_glm4().write(tmp_path / "tiny.gguf")
    header = read_header(path)
    entry = TextModelEntry(source=PathSource(path), context_length=512, gpu_layers=0, mtp=mtp)
    expected = plan_text("tiny", entry, path, header, {CPU: 1 << 40}).takes.mapped
    assert (expected == header.tensor_bytes) is mtp
    caplog.set_level("DEBUG", "localinfra.llama")
    Model(path, ModelSettings(mtp=mtp, mmap=False)).close()
    lines = [line for line in caplog.messages if " model buffer" in line]
    [measured] = footprint_of(lines).bytes_on.values()
    assert abs(measured - expected) <= PRECISION * len(lines)


def test_layers_with_a_window_keep_all_tokens_where_there_is_room(tmp_path: Path) -> None:
    path = tiny_gemma3(layers=6, context_length=50_000).write(tmp_path / "tiny.gguf")
    header = read_header(path)

    def is_full(room_bytes: float, **options: object) -> bool:
        entry = TextModelEntry(
            source=PathSource(path), context_length=50_000, gpu_layers=0, **options  # type: ignore[arg-type] # a parameter
        )  # fmt: skip
        return plan_text("tiny", entry, path, header, {CPU: int(room_bytes)}).settings.full_window

    shape = cache_shape(context_settings(TextModelEntry(source=PathSource(path)), 50_000))
    full = sum(cache_bytes(header, msgspec.structs.replace(shape, full_window=True)))
    assert full > 5 * sum(cache_bytes(header, shape))
    assert is_full(header.tensor_bytes + 2 * full)
    assert not is_full(header.tensor_bytes + 2 * full - 2)
    assert is_full(0, window_cache="full")
    assert not is_full(1e12, window_cache="window")


def test_a_long_context_gives_way_to_layers_that_keep_all_tokens(tmp_path: Path) -> None:
    path = tiny_gemma3(layers=6, context_length=131_072).write(tmp_path / "tiny.gguf")
    header = read_header(path)
    entry = TextModelEntry(source=PathSource(path), gpu_layers=0)

    def full_bytes(length: int) -> int:
        shape = cache_shape(context_settings(entry, length))
        return sum(cache_bytes(header, msgspec.structs.replace(shape, full_window=True)))

    def planned(room_bytes: int) -> tuple[int, bool]:
        settings = plan_text("tiny", entry, path, header, {CPU: room_bytes}).settings
        return settings.context_length, settings.full_window

    weights = header.tensor_bytes
    assert planned(weights + 2 * full_bytes(131_072)) == (131_072, True)
    assert planned(weights + 2 * full_bytes(32_768)) == (32_768, True)
    length, is_full = planned(weights + 2 * full_bytes(32_768) - 2)
    assert length > 32_768 and not is_full


def test_a_full_window_cache_that_finds_no_memory_is_made_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_gemma3(layers=6).write(tmp_path / "tiny.gguf")
    entry = TextModelEntry(source=PathSource(path), context_length=512, kv_cache_tokens=4096)
    plan = plan_text("tiny", entry, path, read_header(path), {CPU: 1 << 40})
    real = placing.load_with_layers

    def load(
        entry: TextModelEntry, plan: TextPlan, settings: ContextSettings, layers: int
    ) -> tuple[LlamaContext, Model]:
        if settings.full_window:
            raise NoContext("no memory")
        return real(entry, plan, settings, layers)

    monkeypatch.setattr(placing, "load_with_layers", load)
    context, _ = place("tiny", entry, plan)
    assert plan.settings.full_window and not context.has_full_window
    context.close()


def test_a_context_is_as_long_as_leaves_room_for_others(tmp_path: Path) -> None:
    path = tiny_llama(layers=4, context_length=100_000).write(tmp_path / "tiny.gguf")
    header = read_header(path)
    entry = TextModelEntry(source=PathSource(path), gpu_layers=0)
    token_bytes = sum(cache_bytes(header, cache_shape(context_settings(entry, 2**20)))) / 2**20

    def length(room_bytes: float) -> int:
        plan = plan_text("tiny", entry, path, header, {CPU: int(room_bytes)})
        return plan.settings.context_length

    weights = header.tensor_bytes
    assert length(weights + 1e12) == 100_000
    assert length(weights + 2 * 99_000 * token_bytes) == 65536
    assert length(weights + 2 * 20_000 * token_bytes) == 16384
    assert length(weights) == length(0) == 4096
    short = read_header(tiny_llama(context_length=300).write(path))
    assert plan_text("tiny", entry, path, short, {CPU: 0}).settings.context_length == 300


@pytest.mark.parametrize(("configured", "lengths"), [(None, [8192, 4096]), (8192, [])])
def test_a_context_that_finds_no_memory_is_made_shorter_unless_it_is_configured(
    configured: int | None,
    lengths: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tiny_llama(context_length=16384).write(tmp_path / "tiny.gguf")
    entry = TextModelEntry(source=PathSource(path), context_length=configured, gpu_layers=0)
    tried: list[int] = []
    real = placing.load_with_layers

    def refuse(
        entry: TextModelEntry, plan: TextPlan, settings: ContextSettings, layers: int
    ) -> tuple[LlamaContext, Model]:
        length = settings.context_length
        if length > 4096:
            tried.append(length)
            raise NoContext("no memory")
        return real(entry, plan, settings, layers)

    monkeypatch.setattr(placing, "load_with_layers", refuse)
    plan = plan_text("tiny", entry, path, read_header(path), {CPU: 1 << 40})
    if configured:
        with pytest.raises(Exception, match="lower context_length"):
            place("tiny", entry, plan)
        assert tried == [8192]
    else:
        context, _ = place("tiny", entry, plan)
        assert context.context_length == 4096 and tried == [16384, *lengths[:1]]
        context.close()


def test_layers_go_to_gpus_as_far_as_the_room_there_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_llama(layers=4).write(tmp_path / "tiny.gguf")
    entry = TextModelEntry(source=PathSource(path))
    monkeypatch.setattr(placing, "free_memory", lambda: {"cuda:0": 0, "cuda:1": 0})
    header, plenty = read_header(path), 8 << 30

    def takes(room: dict[str, int]) -> Footprint:
        return plan_text("tiny", entry, path, header, {CPU: plenty, **room}).takes

    all_on_one = takes({"cuda:0": plenty, "cuda:1": 0})
    assert all_on_one.bytes_on.keys() == {CPU, "cuda:0"}
    nowhere = takes({})
    assert nowhere.bytes_on.keys() == {CPU} and nowhere.mapped == header.tensor_bytes
    assert all_on_one.bytes_on["cuda:0"] > nowhere.bytes_on[CPU] / 2


def test_layers_that_stay_on_the_cpu_are_named_where_the_build_makes_them_slow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_of_slow_layers("tiny", 3, ("AVX512",))
    warn_of_slow_layers("tiny", 0, ("AVX2", "FMA"))
    assert not caplog.text
    warn_of_slow_layers("tiny", 3, ("AVX2", "FMA"))
    assert "tiny: 3 layers stay on the CPU" in caplog.text and "AVX2 FMA" in caplog.text


def test_this_build_uses_what_this_cpu_has_of_what_is_needed() -> None:
    assert "AVX2" not in unused_features()  # it passed its trial here


def test_what_can_not_be_loaded_is_not_for_want_of_context() -> None:
    assert issubclass(NoContext, LoadFailed)
