"""What removing a pulled model deletes, and what it never touches."""

import hashlib
from pathlib import Path

import pytest

from localinfra.errors import InvalidRequest
from localinfra.models import places
from localinfra.models.fetch.removal import plan_removal, remove
from localinfra.models.sources import HubSource, PackageSource, PathSource


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "own"))


def keep(repo: str, file: str, content: bytes, commit: str = "abc") -> Path:
    """A file of a repository, as the hub's cache keeps it."""
    folder = places.hub_folder(repo)
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    link = folder / "snapshots" / commit / file
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    blob.write_bytes(content)
    link.symlink_to(blob)
    return link


def removed(source: HubSource | PathSource) -> int:
    planned = plan_removal("m", source)
    remove(planned)
    return planned.size_bytes


def test_a_file_goes_with_its_content_and_the_others_stay() -> None:
    link, other = keep("o/r", "a.gguf", b"aaaa"), keep("o/r", "b.gguf", b"bb")
    blob = link.resolve()
    assert removed(HubSource("o/r", "a.gguf")) == 4
    assert not link.is_symlink() and not blob.exists() and other.read_bytes() == b"bb"
    assert HubSource("o/r", "b.gguf").find() == other


def test_the_last_file_takes_its_repository_along(tmp_path: Path) -> None:
    keep("o/r", "a.gguf", b"aaaa")
    removed(HubSource("o/r", "a.gguf"))
    assert list((tmp_path / "hub").iterdir()) == []


def test_a_whole_repository_goes_and_its_neighbour_stays(tmp_path: Path) -> None:
    for file in ("config.json", "inner/model.safetensors"):
        keep("o/r", file, file.encode())
    neighbour = keep("o/r2", "a.gguf", b"x")
    assert removed(HubSource("o/r")) == len("config.jsoninner/model.safetensors")
    assert [path.name for path in (tmp_path / "hub").iterdir()] == ["models--o--r2"]
    assert neighbour.exists()


def test_content_that_another_name_needs_stays() -> None:
    keep("o/r", "a.gguf", b"same")
    other = keep("o/r", "b.gguf", b"same")
    assert removed(HubSource("o/r", "a.gguf")) == 0
    assert other.read_bytes() == b"same"


def test_earlier_commits_of_a_file_go_too() -> None:
    old = keep("o/r", "a.gguf", b"old one", commit="first")
    keep("o/r", "a.gguf", b"new", commit="second")
    assert removed(HubSource("o/r", "a.gguf")) == len(b"old one" + b"new")
    assert not old.is_symlink() and HubSource("o/r", "a.gguf").find() is None


def test_all_parts_of_a_model_go() -> None:
    parts = [keep("o/r", f"a-0000{at}-of-00002.gguf", str(at).encode()) for at in (1, 2)]
    assert removed(HubSource("o/r", "a-00001-of-00002.gguf")) == 2
    assert not any(part.is_symlink() for part in parts)


def test_a_projector_goes_with_the_last_model_that_needs_it(tmp_path: Path) -> None:
    files = {name: keep("o/r", name, name.encode()) for name in ("a-Q4_0.gguf", "a-Q8_0.gguf")}
    projector = keep("o/r", "mmproj-F16.gguf", b"eyes")
    removed(HubSource("o/r", "a-Q4_0.gguf"))
    assert files["a-Q8_0.gguf"].exists() and projector.exists()
    assert removed(HubSource("o/r", "a-Q8_0.gguf")) == len("a-Q8_0.gguf") + len("eyes")
    assert list((tmp_path / "hub").iterdir()) == []


def test_what_a_package_brought_goes_with_it() -> None:
    with pytest.raises(InvalidRequest, match="goes with its package, pytest"):
        plan_removal("m", PackageSource("pytest", "__init__.py"))


def test_what_is_damaged_can_be_removed(tmp_path: Path) -> None:
    keep("o/r", "config.json", b"{}")
    keep("o/r", "model.safetensors", b"weights").resolve().unlink()
    assert removed(HubSource("o/r")) == 2
    assert list((tmp_path / "hub").iterdir()) == []


def test_what_was_not_pulled_is_not_removed(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"x")
    with pytest.raises(InvalidRequest, match="was not pulled"):
        plan_removal("m", PathSource(file))
    with pytest.raises(InvalidRequest, match="nothing to remove"):
        plan_removal("m", HubSource("o/none", "a.gguf"))
    link = places.hub_folder("o/r") / "snapshots" / "abc" / "a.gguf"
    keep("o/r", "b.gguf", b"x")
    link.symlink_to(file)  # a link that leads out of the cache
    removed(HubSource("o/r", "a.gguf"))
    assert file.read_bytes() == b"x"
