"""`localinfra pull`, against a hub on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Terminal
from click.testing import CliRunner, Result
from fetch.pulling import remote
from fetch.site import Site, repository, serving
from models.tiny_gguf import tiny_llama

from localinfra.cli.main import main
from localinfra.models.fetch import pull as pulling
from localinfra.models.fetch.journal import About, Journal

MODELS = """
[model."org/chat"]
kind = "text"
source = "hf:org/m:Q8_0"
aliases = ["tiny"]
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("HF_HUB_CACHE", "LOCALINFRA_CACHE", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    (tmp_path / "models.toml").write_text(MODELS)
    monkeypatch.setenv("LOCALINFRA_CONFIG", str(tmp_path / "models.toml"))
    with serving() as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        files = {"m.Q8_0.gguf": tiny_llama().to_bytes()}
        repository(site, site, "org/m", files, cardData={"license": "mit"})
        yield site


def pull(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["pull", *arguments])


def test_a_pull_says_what_it_takes_and_how_to_serve_it(hub: Site, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("")
    done = pull("org/m")
    lines = done.stdout.splitlines()
    assert done.exit_code == 0, done.output
    assert lines[0] == "hf:org/m:Q8_0"
    assert lines[1].split()[2:] == ["m.Q8_0.gguf"]
    assert lines[2] == "  license: mit"
    assert lines[3].startswith("  memory: about 1.7 MB with 512 tokens of context")
    assert lines[4].startswith(f"Here: {tmp_path}")
    assert lines[-1] == "It answers as org/m. Try it: localinfra run org/m"


def test_what_was_pulled_is_listed(hub: Site, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("")
    pull("org/m")
    rows = CliRunner().invoke(main, ["list"]).stdout.splitlines()
    assert ["org/m", "text", "present"] in [row.split()[:3] for row in rows]


def test_a_name_of_models_toml_is_pulled_and_then_present(hub: Site) -> None:
    assert pull("tiny").stdout.splitlines()[-1].startswith("It answers as org/chat.")
    assert CliRunner().invoke(main, ["list"]).stdout.splitlines()[1].split()[2] == "present"


def test_a_dry_run_fetches_nothing(hub: Site, tmp_path: Path) -> None:
    assert "license: mit" in pull("org/m", "--dry-run").stdout
    assert not (tmp_path / "HF_HUB_CACHE").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        ((), 2, "Missing argument"),
        (("nothing",), 1, "error: Nothing is called 'nothing'"),
        (("org/m", "org/nothing"), 1, "has no model 'org/nothing'"),
        (("org/m:Q2_K",), 1, "error: org/m has no Q2_K: Q8_0."),
    ],
)
def test_a_wrong_reference_is_an_error_before_anything_is_fetched(
    hub: Site, tmp_path: Path, arguments: tuple[str, ...], status: int, problem: str
) -> None:
    done = pull(*arguments)
    assert done.exit_code == status
    assert problem in done.stderr
    assert not (tmp_path / "HF_HUB_CACHE").exists()


def test_a_file_that_is_no_model_is_known_by_its_first_bytes(hub: Site, tmp_path: Path) -> None:
    repository(hub, hub, "org/page", {"m.gguf": b"<html>" + bytes(10_000_000)})
    done = pull("org/page")
    assert "error: m.gguf is a web page, not a model" in done.stderr
    assert not (tmp_path / "HF_HUB_CACHE").exists()


def test_a_pull_that_was_begun_reads_the_header_where_it_is(hub: Site) -> None:
    data = tiny_llama().to_bytes()
    blob = pulling.plan(remote("hf:org/m:Q8_0")).model
    assert blob and blob.content
    with Journal(blob.part_path, About(blob.content, len(data), 1 << 20)) as begun:
        for piece, is_asked in ((data[:100], True), (data[100:], False)):
            begun.write(begun.parts[0], piece)
            hub.requests.clear()
            assert "memory: about 1.7 MB" in pull("org/m", "--dry-run").stdout
            assert bool(hub.asked("/cdn")) == is_asked


GB = 10**9


@pytest.mark.parametrize(
    ("gpus", "free", "expected"),
    [
        ([8 * GB], 8 * GB, "all 3 layers fit the GPU"),
        ([(5 << 28) + 50_000], 8 * GB, "1 of 3 layers fit the GPU, the CPU computes the others"),
        ([1], 8 * GB, "computed on the CPU; 7.5 GB are free"),
        ([], 8 * GB, "computed on the CPU; 7.5 GB are free"),
        ([], 1 << 29, "but 0 B are free: it may be very slow or fail; try a smaller QUANT"),
        ([], None, "computed on the CPU"),
    ],
)
def test_it_says_how_a_model_fits_this_machine(
    hub: Site, gpus: list[int], free: int | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {f"gpu{at}": free_bytes for at, free_bytes in enumerate(gpus)}
    monkeypatch.setattr("localinfra.llama.build_info.free_memory", lambda: named)
    monkeypatch.setattr("localinfra.text.placing.free_memory", lambda: named)
    monkeypatch.setattr("localinfra.machine.available_memory", lambda: free)
    [line] = [line for line in pull("org/m", "--dry-run").stdout.splitlines() if "memory:" in line]
    assert line.endswith(expected)


def test_ctrl_c_ends_a_pull_and_says_how_to_go_on(hub: Site) -> None:
    data = tiny_llama().to_bytes()
    repository(hub, hub, "org/m", {"m.Q8_0.gguf": data, "model_index.json": b"{}"})
    sent: list[int] = []

    def hold(size: int) -> bool:
        sent.append(1)
        if len(sent) > 2:  # two have brought the header, so this is the file's
            terminal.type("\x03")
            return False
        return True

    hub.before_chunk = hold
    with Terminal("pull", "org/m") as terminal:
        terminal.until(r"Stopped\. What came is kept: `localinfra pull org/m` goes on\.")
        assert terminal.exit_code() == 130
    hub.before_chunk = lambda size: True
    assert pull("org/m").exit_code == 0
