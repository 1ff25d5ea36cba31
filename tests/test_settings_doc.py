"""docs/settings.md agrees with the structs that read models.toml."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import msgspec

from localinfra.config.scale import RaySettings, ReplicaGroup
from localinfra.config.settings import ServerSettings
from localinfra.models.entries import KINDS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "settings.md"


def load_script() -> ModuleType:
    loader = SourceFileLoader("make_settings_doc", str(ROOT / "scripts" / "make_settings_doc"))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = no_bytecode
    return module


script = load_script()


def test_the_document_agrees_with_the_structs() -> None:
    present = DOCUMENT.read_text(encoding="utf-8")
    assert present == script.document(present), "run scripts/make_settings_doc"


def test_every_key_has_a_row() -> None:
    structs: list[type[msgspec.Struct]] = [ServerSettings, RaySettings, ReplicaGroup]
    structs += KINDS.values()
    keys = {key for struct in structs for key in struct.__struct_fields__}
    tables = script.tables()
    assert not {key for key in keys if f"| `{key}` |" not in tables}
