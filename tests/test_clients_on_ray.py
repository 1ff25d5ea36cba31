"""Every test with other people's clients runs through one process, and through Ray's replicas."""

import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

CLIENTS = Path(__file__).parent / "clients"

# Test → why it runs without Ray alone.
WITHOUT_RAY: dict[str, str] = {}

SERVER = re.compile(r"(?<=[\[-])(alone|ray)(?=[\]-])")  # a test's parameter


def collected() -> set[str]:
    """The names of all tests with clients."""
    options = ["-q", "--import-mode=importlib", "--collect-only", "-m", "clients"]
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", *options, str(CLIENTS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.rpartition("/")[2] for line in done.stdout.splitlines() if "::" in line}


def without_twin(names: Collection[str]) -> set[str]:
    """Those of one process that have none on Ray."""
    on_ray = {SERVER.sub("alone", name) for name in names if "ray" in SERVER.findall(name)}
    return {name for name in names if SERVER.findall(name) != ["ray"]} - on_ray


def test_every_client_is_tested_through_ray_too() -> None:
    names = collected()
    assert len(names) > 50
    assert without_twin(names) == set(WITHOUT_RAY)


def test_a_test_without_a_twin_is_found() -> None:
    twins = {"a.py::test_b[alone-x]", "a.py::test_b[ray-x]", "a.py::test_b[y-alone]"}
    lonely = {"a.py::test_b[alone-y]", "a.py::test_array", "a.py::test_c[x]"}
    assert without_twin({*twins, *lonely, "a.py::test_b[y-ray]"}) == lonely
