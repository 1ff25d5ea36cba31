"""Commands about models and their files: show, rm, run, completion."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from models.tiny_gguf import F32, STRING, TinyModel, Value, tiny_gemma3, tiny_llama, tiny_mamba
from models.tiny_hybrids import tiny_lfm2
from models.tiny_mtp import tiny_glm4
from models.tiny_others import tiny_qwen4exp

from localinfra.cli.doctor_settings import check_sharing, check_steps
from localinfra.cli.main import main
from localinfra.cli.memory import STATES, WHOLE_STATES
from localinfra.config import settings as config_file
from localinfra.footprint import GIB
from localinfra.models import catalog, files, places


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one pulled model, `owner/repo`."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "own"))
    monkeypatch.delenv("LOCALINFRA_CONFIG", raising=False)
    folder = places.hub_folder("owner/repo")
    for path in ("refs", "snapshots/abc", "blobs"):
        (folder / path).mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    model = tiny_llama()
    model.metadata["general.sampling.temp"] = Value(F32, 0.6)
    model.metadata["general.license"] = Value(STRING, "apache-2.0")
    model.write(folder / "blobs" / "tiny")
    (folder / "snapshots" / "abc" / "tiny-Q4_K_M.gguf").symlink_to(folder / "blobs" / "tiny")
    return tmp_path / "hub"


def called(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=input)


def test_show_says_what_a_pulled_model_is() -> None:
    done = called("show", "owner/repo:Q4_K_M")
    rows = dict(line.split("  ", 1) for line in done.output.splitlines())
    found = {title.strip(): text.strip() for title, text in rows.items()}
    assert done.exit_code == 0, done.output
    assert (found["name"], found["kind"]) == ("owner/repo", "text")
    assert found["model"].startswith("llama, ") and found["license"] == "apache-2.0"
    assert found["context"] == "as memory allows; trained for 512"
    assert found["recommended"] == "temperature 0.6"
    assert found["memory"].startswith("about ") and " tokens of context" in found["memory"]


@pytest.mark.parametrize(
    ("gpus", "free", "expected"),
    [
        ([8 * GIB], 8 * GIB, "all 3 layers fit the GPU"),
        ([], 8 * GIB, "computed on the CPU; 8.1 GB are free"),
        ([], GIB // 2, "but 0 B are free: it may be very slow or fail; try a smaller QUANT"),
    ],
)
def test_show_says_how_a_model_fits_this_machine(
    gpus: list[int], free: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {f"gpu{at}": free_bytes for at, free_bytes in enumerate(gpus)}
    monkeypatch.setattr("localinfra.llama.build_info.free_memory", lambda: named)
    monkeypatch.setattr("localinfra.text.placing.free_memory", lambda: named)
    monkeypatch.setattr("localinfra.machine.available_memory", lambda: free)
    line = called("show", "owner/repo").stdout.splitlines()[-1]
    assert line.startswith("memory") and line.endswith(expected), line


@pytest.mark.parametrize(
    ("gpu", "setting", "words"),
    [
        ("", "", "steps of up to 512 tokens"),
        ("cuda:0", "", "steps of up to 2,048 tokens: a GPU computes, and has memory for them"),
        ("vulkan:0", "", "steps of up to 512 tokens"),
        ("cuda:0", "batch_size = 64", "steps of up to 64 tokens, as batch_size says"),
        ("cuda:0", "gpu_layers = 0", "steps of up to 512 tokens"),
    ],
)
def test_show_and_doctor_say_how_large_steps_are(
    gpu: str, setting: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {gpu: 8 * GIB} if gpu else {}
    monkeypatch.setattr("localinfra.llama.build_info.free_memory", lambda: free)
    monkeypatch.setattr("localinfra.text.placing.free_memory", lambda: free)
    path = tiny_llama().write(tmp_path / "tiny.gguf")
    (tmp_path / "models.toml").write_text(
        f'[model."tiny"]\nsource = "{path}"\nkind = "text"\n{setting}\n'
    )
    config = config_file.load(tmp_path / "models.toml")
    done = called("show", "tiny", "--config", str(config.path))
    assert f"prompts   read in {words}\n" in done.output
    entries = {"tiny": catalog.discover(config).entries["tiny"]}
    found = [finding.text for finding in check_steps(entries, config.server)]
    is_on_gpu = gpu and setting != "gpu_layers = 0"
    assert found == ([f"tiny: prompts are read in {words}"] if is_on_gpu else [])


@pytest.mark.parametrize(
    ("make", "setting", "words"),
    [
        (tiny_gemma3, "", "shared in any part"),
        (tiny_gemma3, 'window_cache = "window"', "shared up to saved states"),
        (tiny_lfm2, "", "shared up to saved states"),
        (tiny_lfm2, "parked_prefixes_mib = 0", "not shared: a saved state takes"),
        (tiny_gemma3, "parked_prefixes_mib = 0", "shared in any part"),
        (tiny_llama, "separate_caches = true", WHOLE_STATES),
        (
            tiny_llama,
            "separate_caches = true\nparked_prefixes_mib = 1\ncontext_length = 32768",
            f"{WHOLE_STATES}, but one of 32,768 tokens takes about",
        ),
        (tiny_llama, "separate_caches = true\nparked_prefixes_mib = 0", "not shared: parked_"),
        (tiny_mamba, "separate_caches = true", STATES),
        (tiny_qwen4exp, "", WHOLE_STATES),
    ],
)
def test_show_and_doctor_say_how_prefixes_are_shared(
    tmp_path: Path, make: Callable[[], TinyModel], setting: str, words: str
) -> None:
    path = make().write(tmp_path / "tiny.gguf")
    (tmp_path / "models.toml").write_text(
        f'[model."tiny"]\nsource = "{path}"\nkind = "text"\nkv_cache_tokens = 4096\n{setting}\n'
    )
    done = called("show", "tiny", "--config", str(tmp_path / "models.toml"))
    assert done.exit_code == 0 and f"prefixes  {words}" in done.output
    entries = catalog.discover(config_file.load(tmp_path / "models.toml")).entries
    [finding] = check_sharing({"tiny": entries["tiny"]})
    assert finding.level == "ok" and f"tiny: prefixes are {words}" in finding.text


@pytest.mark.parametrize(
    ("make", "mtp", "words"),
    [
        (tiny_glm4, True, "  by its own MTP layer"),
        (tiny_glm4, False, "  not by its own MTP layer: for that, set mtp = true"),
        (tiny_llama, True, "can't draft for itself (mtp = true): it has no layers for multi-"),
    ],
)
def test_show_says_whether_a_model_drafts_for_itself(
    tmp_path: Path, make: Callable[[], TinyModel], mtp: bool, words: str
) -> None:
    path = make().write(tmp_path / "tiny.gguf")
    table = f'[model."tiny"]\nsource = "{path}"\nkind = "text"\nmtp = {str(mtp).lower()}\n'
    (tmp_path / "models.toml").write_text(table)
    done = called("show", "tiny", "--config", str(tmp_path / "models.toml"))
    assert done.exit_code == 0 and words in done.output
    entry = catalog.discover(config_file.load(tmp_path / "models.toml")).entries["tiny"]
    problems = list(files.problems(entry, is_thorough=True))
    assert [words in problem for problem in problems] == [True] * (make is tiny_llama)


def test_show_of_an_unknown_model_names_close_ones() -> None:
    done = called("show", "owner/rep")
    assert done.exit_code == 1 and "Did you mean owner/repo" in done.output


def test_a_model_is_removed_once_its_user_agrees(hub: Path) -> None:
    refused = called("rm", "owner/repo", input="n\n")
    assert refused.exit_code == 1 and "Delete these files?" in refused.output
    assert any(hub.iterdir())
    agreed = called("rm", "owner/repo", input="y\n")
    assert agreed.exit_code == 0 and "owner/repo is removed." in agreed.output
    assert not any(hub.iterdir())
    assert called("rm", "owner/repo", "--yes").exit_code == 1


def test_what_was_not_pulled_stays() -> None:
    done = called("rm", "smollm2", "--yes")
    assert done.exit_code == 1 and "was not pulled" in done.output


def test_a_model_that_is_here_is_run_without_a_pull(stub: Any) -> None:
    stub.models = b'{"object":"list","data":[{"id":"two"}]}'
    done = called("run", "two", "Hello", "--url", stub.url)
    assert (done.exit_code, done.output) == (0, "<Hello>\n")


def test_what_can_neither_be_found_nor_pulled_is_refused() -> None:
    done = called("run", "smolm2", "Hello")
    assert done.exit_code == 1 and "Did you mean smollm2" in done.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed(shell: str) -> None:
    done = called("completion", shell)
    assert done.exit_code == 0 and "_LOCALINFRA_COMPLETE" in done.output


def test_models_are_completed() -> None:
    environment = {"_LOCALINFRA_COMPLETE": "bash_complete", "COMP_WORDS": "localinfra show own"}
    program = "import sys; sys.argv[0] = 'localinfra'; from localinfra.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment, "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["plain,owner/repo", "plain,owner/repo:Q4_K_M"], done.stderr
