"""`scripts/gpu_check`: its parts on plain values, and the quick form as a whole."""

import json
import os
import subprocess
import sys
import tarfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from gpucheck import building, packing, running, shapes, speed, surroundings, tools  # noqa: E402
from gpucheck.fidelity import ON_DEVICE, environment_of_tests, likeness, verdict  # noqa: E402
from gpucheck.rows import Row, Sheet, as_table, read_rows  # noqa: E402

from localinfra.llama.model import Model, ModelSettings  # noqa: E402


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's words alone, as they are carried."""
    from benchweights import shipped_model

    target = tmp_path_factory.mktemp("words") / "words.gguf"
    shapes.write_words(Path(shipped_model()), target)
    return target


@pytest.mark.parametrize("shape", [shapes.SMALL_SMOLLM2, shapes.SMALL_GEMMA3])
def test_a_random_model_is_one_to_llama_cpp_with_the_words_of_a_real_one(
    shape: shapes.Shape, words: Path, tmp_path: Path
) -> None:
    assert words.stat().st_size < 3 << 20
    path = shapes.write(tmp_path / "model.gguf", shape, words)
    model = Model(path, ModelSettings())
    assert model.num_vocab == max(49_152, shape.num_words)
    assert model.architecture == shape.architecture and model.can_generate
    text = "The river runs"
    ids = model.tokenize(text, parse_special=False, add_bos=False)
    assert len(ids) == 3 and b"".join(map(model.token_bytes, ids)).decode() == text
    model.close()


def test_smollm2s_shape_is_the_real_ones() -> None:
    from benchweights import shipped_model

    real = gguf.GGUFReader(shipped_model())
    shaped = {
        f"blk.0.{name}.weight": sides for name, sides in shapes.matrices(shapes.SMOLLM2).items()
    }
    found = {
        each.name: tuple(map(int, reversed(each.shape)))
        for each in real.tensors
        if each.name in shaped
    }
    assert found == shaped
    layers = {each.name.split(".")[1] for each in real.tensors if each.name.startswith("blk.")}
    assert len(layers) == shapes.SMOLLM2.layers


def test_raw_weights_have_the_deviation_that_was_asked_for() -> None:
    random = np.random.default_rng(0)
    for raw, kind in ((shapes.raw_q8, shapes.Q8_0), (shapes.raw_q4, shapes.Q4_1)):
        values = gguf.quants.dequantize(raw(random, 64, 256, 0.05), kind)
        assert abs(values.mean()) < 0.002 and values.std() == pytest.approx(0.05, rel=0.05)


def test_tests_on_the_device_load_models_with_all_layers() -> None:
    program = (
        f"import {ON_DEVICE} as plugin\n"
        "from localinfra.llama.model import Model, ModelSettings\n"
        "plugin._load = lambda self, path, settings: print(settings.gpu_layers)\n"
        "Model('x', ModelSettings()), Model('x', ModelSettings(vocabulary_only=True))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment_of_tests(), capture_output=True, text=True)
    assert done.stdout.split() == ["999", "0"], done.stderr


def test_rows_are_compared_with_their_own_spread() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 100)).astype(np.float32)
    assert likeness(rows, rows + np.float32(0.01)).startswith("passed")
    assert likeness(rows, rows * np.float32(1.1)).startswith("FAILED")


@pytest.mark.parametrize(
    ("status", "output", "said"),
    [
        (0, "....\n4 passed, 1 skipped in 3.2s\n", "passed (4 passed, 1 skipped)"),
        (
            1,
            "FAILED tests/llama/test_windows.py::test_a - assert 1\n1 failed, 3 passed in 2s\n",
            "FAILED: 1 failed, 3 passed: test_windows.py::test_a",
        ),
        (4, "ERROR: file not found\n", "FAILED: ERROR: file not found: "),
    ],
)
def test_pytests_output_becomes_a_row(status: int, output: str, said: str) -> None:
    assert verdict(status, output) == said


def test_ratios_are_to_each_server_and_the_goals_are_of_32_streams(tmp_path: Path) -> None:
    rates = {"localinfra": {1: 98.0, 32: 1200.0}, "llama-server": {1: 90.0, 32: 1000.0}}
    speed.compare(Sheet(tmp_path / "rows", "speed"), "m", rates, {1: 100.0})
    found = {row.what: (row.found, row.goal) for row in read_rows(tmp_path / "rows")}
    assert found == {
        "m: localinfra, 1 stream, of the bare loop": ("0.98", "≥ 0.98"),
        "m: localinfra, 32 streams, of llama-server": ("1.20", "≥ 1.2"),
    }


def test_progress_and_the_first_error_of_a_build() -> None:
    text = "[  3%] Building CXX object a/x.cpp.o\n[ 42%] Building CUDA object b/mmq.cu.o\n"
    assert building.progress(text) == "42% mmq.cu.o"
    assert building.progress("[17/230] c++ -c dir/ggml.c\n") == "17/230 ggml.c"
    assert building.progress("-- Looking for a\n-- Found it\n") == "-- Found it"
    assert building.progress("") == ""
    assert building.first_error(text + "x.cu(3): error: no\nmake: *** Error 2\n").startswith(
        "x.cu(3)"
    )


def test_cublas_is_found_in_nvidias_packages(tmp_path: Path) -> None:
    lib = tmp_path / "nvidia" / "cu13" / "lib"
    lib.mkdir(parents=True)
    assert building.cublas_options([lib]) == []
    for name in ("libcublas.so.13", "libcublasLt.so.13"):
        (lib / name).touch()
    assert building.cublas_options([lib]) == [
        f"-DCUDA_cublas_LIBRARY={lib}/libcublas.so.13",
        f"-DCUDA_cublasLt_LIBRARY={lib}/libcublasLt.so.13",
        f"-DCMAKE_CXX_FLAGS=-I{lib.parent}/include",
        f"-DCMAKE_CUDA_FLAGS=-I{lib.parent}/include",
    ]


def test_the_archive_has_the_sources_and_no_tests(tmp_path: Path) -> None:
    llama = tmp_path / "sdist" / "vendor" / "llama.cpp"
    for name in (
        "CMakeLists.txt",
        "ggml/src/ggml.c",
        "tools/server/main.cpp",
        "tools/server/tests/x",
    ):
        (llama / name).parent.mkdir(parents=True, exist_ok=True)
        (llama / name).write_text(name)
    (tmp_path / "sdist" / "llama_cpp").mkdir()
    (tmp_path / "sdist" / "llama_cpp" / "llama_cpp.py").write_text("")
    packing.pack_sources(tmp_path / "sdist", tmp_path / packing.SOURCES)
    with tarfile.open(tmp_path / packing.SOURCES) as archive:
        files = {member.name for member in archive if member.isfile()}
    assert files == {
        "llama.cpp/CMakeLists.txt",
        "llama.cpp/ggml/src/ggml.c",
        "llama.cpp/tools/server/main.cpp",
        "llama_cpp/llama_cpp.py",
    }


def test_the_wheels_are_tested_versions_of_what_the_other_machine_lacks() -> None:
    alone, beside_torch = packing.pinned([]), packing.pinned(["torch", "NumPy", "pillow"])
    assert not any(line.startswith(("diffusers", "transformers")) for line in alone)
    assert {line.partition("==")[0] for line in alone} >= {"numpy", "msgspec", "gguf", "pytest"}
    assert {line.partition("==")[0] for line in beside_torch} >= {"diffusers", "transformers"}
    assert not any(line.startswith(("numpy", "pillow", "torch")) for line in beside_torch)


def test_a_folder_that_was_not_packed_is_said_once_and_nothing_else_runs(tmp_path: Path) -> None:
    (tmp_path / "packed" / "wheels").mkdir(parents=True)
    options = [
        "--packed",
        str(tmp_path / "packed"),
        "--out",
        str(tmp_path / "out"),
        "--only",
        "layers",
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "gpu_check"), *options], capture_output=True
    )
    assert done.returncode == 1
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    failed = [row["found"] for row in rows if row["found"].startswith("FAILED")]
    assert failed[0].endswith("is not what --pack makes") and failed[1:] == [
        "FAILED: ended with status 1"
    ]
    assert rows[-1]["found"] == "not run: the first part says why"


def test_a_server_that_takes_too_long_to_compile_costs_the_other_parts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_to_end(*_: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(surroundings, "python_site", lambda packed, work: work / "site")
    monkeypatch.setattr(surroundings, "build", lambda *_, **__: None)
    monkeypatch.setattr(surroundings, "compiled_server", told_to_end)
    options = Namespace(packed=tmp_path, work=tmp_path, quick=True, llama_server=None)
    with pytest.raises(SystemExit):
        surroundings.run(options, Sheet(tmp_path / "build.jsonl", "build"))
    found = tools.Surroundings.load(tmp_path)
    assert found.libraries == tmp_path / "build" / "bin" and found.llama_server is None


# --- Parts in processes of their own -------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """Three parts that go wrong in three ways, and their options."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys, time\n"
        "part, out = sys.argv[2], sys.argv[sys.argv.index('--out') + 1]\n"
        "row = {'what': 'half', 'found': '1', 'goal': '', 'part': part}\n"
        "with open(f'{out}/{part}.jsonl', 'w') as file:\n"
        "    file.write(json.dumps(row) + '\\n{\"wh')\n"
        "    file.flush()\n"
        "    time.sleep(600) if part == 'logits' else os._exit(3 if part == 'speed' else 0)\n"
    )
    monkeypatch.setattr(running, "SCRIPT", script)
    part = running.Part("title", "module.function", 600)
    limited = part._replace(limit_s=5)  # it must have begun, on a slow machine too
    monkeypatch.setattr(running, "PARTS", {"build": part, "logits": limited, "speed": part})
    out = tmp_path / "out"
    return Namespace(
        out=out, work=tmp_path, quick=True, packed=None, llama_server=None, only=[], minutes=12
    )


def test_a_part_that_hangs_or_dies_is_noted_and_the_next_goes_on(parts: Namespace) -> None:
    assert running.run_all(parts) == 2
    rows = [Row(**row) for row in json.loads((parts.out / "results.json").read_text())["rows"]]
    assert [(row.part, row.found) for row in rows if not row.is_failed] == [
        ("build", "1"), ("logits", "1"), ("speed", "1"),
    ]  # fmt: skip
    failed = [row.found for row in rows if row.is_failed]
    assert failed[0].startswith("FAILED: stopped after ") and failed[1:] == [
        "FAILED: ended with status 3"
    ]
    assert as_table(rows) in (parts.out / "table.md").read_text()


def test_told_to_end_it_ends_its_part_and_keeps_what_that_found(
    parts: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.only = ["logits"]
    started: list[subprocess.Popen[bytes]] = []

    def interrupted(process: "subprocess.Popen[bytes]", limit_s: float) -> int | None:
        if started:
            return ended(process, limit_s)
        started.append(process)
        while not (parts.out / "build.jsonl").exists() or not read_rows(parts.out / "build.jsonl"):
            time.sleep(0.01)
        raise SystemExit(1)

    ended = running.ended
    monkeypatch.setattr(running, "ended", interrupted)
    with pytest.raises(SystemExit):
        running.run_all(parts)
    assert started[0].returncode is not None
    [row] = json.loads((parts.out / "results.json").read_text())["rows"]
    assert row["what"] == "half"


def test_rows_of_an_earlier_run_are_not_taken_for_this_ones(
    parts: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.run_all(parts)
    parts.only = ["speed"]
    monkeypatch.setattr(running, "SCRIPT", parts.work / "missing.py")
    assert running.run_all(parts) == 2
    rows = json.loads((parts.out / "results.json").read_text())["rows"]
    assert {row["found"] for row in rows} == {"FAILED: ended with status 2"}


def test_compilers_end_with_the_part_that_started_them(tmp_path: Path) -> None:
    """A child of the build holds a pipe open, in a process group of its own as ninja's are; its end
    says that nobody does any more."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    program = "\n".join(
        (
            "import os, sys, subprocess",
            f"sys.path[:0] = [{str(SCRIPTS)!r}, {str(SCRIPTS.parent)!r}]",
            "from pathlib import Path",
            "from gpucheck import building, running",
            "import signal",
            "signal.signal(signal.SIGTERM, running.stop)",
            "building.EVERY_S = 0.05",
            "subprocess.Popen = lambda *a, real=subprocess.Popen, **k: real(",
            f"    *a, **k, pass_fds=[{writing}])",
            "ninja = 'set -m; trap \"kill -- -\\$!; exit 1\" TERM; sleep 600 & wait'",
            "building.run(['bash', '-c', ninja], dict(os.environ),",
            f"    Path({str(tmp_path / 'log')!r}))",
        )
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, pass_fds=[writing], stdout=subprocess.PIPE) as part:
        os.close(writing)
        assert part.stdout and b".." in part.stdout.readline()  # it waits for the compilers
        part.terminate()
    assert part.returncode == 1
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_parts_after_the_time_is_up_are_not_run(parts: Namespace) -> None:
    parts.minutes = 0
    assert running.run_all(parts) == 0
    rows = json.loads((parts.out / "results.json").read_text())["rows"]
    assert {row["found"] for row in rows} == {"not run: the time was up"}


@pytest.mark.slow
def test_the_quick_form_runs_here_and_says_what_needs_a_gpu(tmp_path: Path) -> None:
    """The parts without servers, as the others take a minute on a busy machine."""
    options = ["--quick", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    command = [sys.executable, str(SCRIPTS / "gpu_check"), *options, "--minutes", "60"]
    done = subprocess.run([*command, "--only", "logits,layers"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    by_what: dict[str, Any] = {row["what"]: row["found"] for row in found}
    assert by_what["tiny llama: logits of one step and of several"].startswith("passed")
    assert by_what["0 of 3 layers on the GPU, 1 stream"].endswith("tokens/s")
    if not tools.nvidia_gpu():
        assert by_what["as many layers as fit a budget"] == "not run: needs an NVIDIA GPU"
