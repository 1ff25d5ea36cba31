"""One idea, one screen: files and functions stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def is_script(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env python3")


FILES = [
    path
    for folder in ("localinfra", "tests", "scripts")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix == ".py" or (folder == "scripts" and is_script(path))
]
MAX_LINES, MAX_FUNCTION_LINES = 400, 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES, "a second idea is hiding in it: give it a file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name
