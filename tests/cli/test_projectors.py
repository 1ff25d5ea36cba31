"""What `localinfra show` and `localinfra doctor` say of models that see and hear."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from models.tiny_gguf import TinyModel, tiny_gemma3, tiny_llama
from models.tiny_projectors import tiny_gemma3_projector, tiny_omni, tiny_ultravox

from localinfra.cli.findings import Finding
from localinfra.cli.projectors import check_projectors, rows_of_senses
from localinfra.models.entries import TextModelEntry
from localinfra.models.gguf.reader import read_header
from localinfra.models.sources import PathSource
from localinfra.models.trials import note_crash


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))


def entry_of(folder: Path, make: Callable[[], TinyModel] = tiny_gemma3) -> TextModelEntry:
    return TextModelEntry(source=PathSource(make().write(folder / "m.gguf")))


def rows(entry: TextModelEntry) -> dict[str, str]:
    path = entry.source.find()
    assert path
    return dict(rows_of_senses(entry, read_header(path)))


def found(entry: TextModelEntry) -> Finding:
    (finding,) = check_projectors({"m": entry})
    return finding


def test_a_model_that_sees_and_hears(tmp_path: Path) -> None:
    entry = entry_of(tmp_path)
    assert not rows(entry) and not [*check_projectors({"m": entry})]
    tiny_omni().write(tmp_path / "mmproj-m.gguf")
    told = rows(entry)
    assert told["vision"].startswith("by mmproj-m.gguf (gemma3, ") and "MB in mem" in told["vision"]
    assert "(ultravox, " in told["hearing"] and told["hearing"].endswith("30 minutes at a time")
    finding = found(entry)
    assert finding.level == "ok" and "m sees and hears by mmproj-m.gguf, " in finding.text
    off = msgspec.structs.replace(entry, vision=False)
    assert not rows(off) and not [*check_projectors({"m": off})]


def test_a_model_that_only_hears(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, tiny_llama)
    tiny_ultravox().write(tmp_path / "mmproj-m.gguf")
    assert rows(entry)["vision"] == "no" and "ultravox" in rows(entry)["hearing"]
    assert found(entry).text.startswith("m hears by mmproj-m.gguf, ")


def test_a_projector_that_fits_but_is_not_used_is_a_hint_to_name_it(tmp_path: Path) -> None:
    entry = entry_of(tmp_path)
    path = tiny_gemma3_projector().write(tmp_path / "mmproj-m.gguf")
    tiny_gemma3_projector(width=64).write(tmp_path / "mmproj-other.gguf")
    tiny_llama().write(tmp_path / "other.gguf")
    finding = found(entry)
    assert finding.level == "hint" and f'mmproj = "{path}"' in finding.text
    assert "not by mmproj-m.gguf" in rows(entry)["vision"]
    named = msgspec.structs.replace(entry, mmproj=PathSource(path))
    assert found(named).level == "ok"


def test_projectors_of_other_models_and_damaged_ones(tmp_path: Path) -> None:
    entry = entry_of(tmp_path)
    path = tiny_gemma3_projector(width=64).write(tmp_path / "mmproj-m.gguf")
    finding = found(entry)
    assert finding.level == "failed" and "makes rows of 64 numbers" in finding.text
    assert rows(entry)["vision"].startswith("no: ")
    named = msgspec.structs.replace(entry, mmproj=PathSource(path))
    assert found(named).level == "problem"
    path.write_bytes(tiny_gemma3_projector().to_bytes()[:1000])
    assert "fetch" in found(named).text
    absent = msgspec.structs.replace(entry, mmproj=PathSource(tmp_path / "gone.gguf"))
    assert found(absent).level == "hint" and "is missing" in found(absent).text


def test_one_that_has_crashed_is_told_of(tmp_path: Path) -> None:
    entry = entry_of(tmp_path)
    path = tiny_gemma3_projector().write(tmp_path / "mmproj-m.gguf")
    model = entry.source.find()
    assert model
    note_crash("a" * 32, [path, model], "makes llama.cpp crash (SIGABRT)")
    assert found(entry).level == "failed" and "crash (SIGABRT); `localinfra" in found(entry).text
    tiny_gemma3_projector(seed=2).write(path)
    assert found(entry).level == "ok"
