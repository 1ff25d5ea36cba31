"""`localinfra setup`: installs the llama.cpp that suits this machine into this environment.

A new build is tried in a folder of its own first: one that doesn't work here replaces nothing.

For environments made by pip or uv. A checkout's own is made by `scripts/serve`, by the same rules
(`llama_builds.py`).
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from localinfra import install, llama_usable
from localinfra.backend_detect import BACKENDS, best_backend, look
from localinfra.errors import ApiError
from localinfra.llama_builds import (
    TRIAL,
    Attempt,
    attempts,
    missing_tool,
    nvidia_packages,
    tools,
    verdict,
)
from localinfra.machine import cache_folder, cpu
from localinfra.wheels import packed


@click.command()
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="What it computes on. Default: what suits this machine.",
)
@click.option(
    "--compile",
    "compiles",
    is_flag=True,
    help="Compile it for exactly this CPU instead of taking a ready-made one. Takes minutes.",
)
def setup(backend: str | None, compiles: bool) -> None:
    """Install the llama.cpp that suits this machine into this Python environment.

    Takes a ready-made one of its authors if there is one that runs here, and compiles it else. The
    installed one is replaced by one that has been tried. CMAKE_ARGS is heeded.
    """
    machine = look()
    backend = backend or best_backend(machine)
    arguments = os.environ.get("CMAKE_ARGS", "")
    if not compiles and not arguments and not fault_of(backend):
        click.echo(f"llama.cpp for {backend} is installed and runs: there is nothing to do.")
        return
    requirement = install.pinned("llama-cpp-python")
    cache = cache_folder("pip") / cpu().split()[-1]
    for way in attempts(requirement, backend, machine, False, arguments, cache):
        if compiles and not way.compiles:
            continue
        if way.compiles and (missing := missing_tool(backend, machine, tools())):
            raise ApiError(missing)
        click.echo(f"llama.cpp for {backend}, {way.title}")
        if replaced(backend, way):
            click.echo(f"llama.cpp for {backend} is installed and runs.")
            return
    left = "" if llama_usable.problem() else " The installed one is as it was."
    raise ApiError(f"There is no llama.cpp for {backend} that works here.{left}")


def replaced(backend: str, way: Attempt) -> bool:
    """Gets the build into a folder, tries it there, and puts it into this environment. Raises
    ApiError if only the last fails."""
    parent = cache_folder("setup")  # on the disk, since CUDA's builds have a GB
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        folder = Path(temporary, "new")
        into = install.pip_command("--no-deps", "--target", str(folder), *way.pip_arguments)
        if not succeeds(into, way.environment):
            click.echo("That failed: the lines above say why.")
            return False
        if fault := fault_of(backend, folder):
            click.echo(f"This build of llama.cpp does not work: {fault}.")
            return False
        wheel = packed(folder, "llama_cpp_python", Path(temporary))
        put = install.pip_command("--no-deps", "--force-reinstall", str(wheel))
        if not succeeds(put, {}):
            raise ApiError(
                "The build works, but could not be put into this environment: the lines above say "
                "why. Stop servers that run in it, and try again."
            )
        return True


def fault_of(backend: str, folder: Path | None = None) -> str:
    """What a trial finds to be wrong with the build; if it lacks NVIDIA's libraries, after they
    have been installed."""
    fault = trial(backend, folder)
    packages = nvidia_packages(fault)
    if not packages:
        return fault
    click.echo(f"It lacks NVIDIA's libraries, about 0.6 GB: {' '.join(packages)}")
    if not succeeds(install.pip_command(*packages), {}):
        return fault
    return trial(backend, folder)


def succeeds(command: list[str], environment: dict[str, str]) -> bool:
    """Runs pip. Raises ApiError if there is none."""
    try:
        return subprocess.run(command, env={**os.environ, **environment}).returncode == 0
    except FileNotFoundError:
        brings = shlex.join([sys.executable, "-m", "ensurepip"])
        raise ApiError(
            f"This environment has no pip, and {command[0]} is not found. This brings pip: {brings}"
        ) from None


def trial(backend: str, folder: Path | None = None) -> str:
    """What is wrong with the build, the installed one or the one in the folder; "" if nothing."""
    if fault := llama_usable.tried(folder) if folder else llama_usable.problem():
        return fault
    done = subprocess.run(
        [sys.executable, "-P", "-c", TRIAL],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=llama_usable.environment_with(folder),
    )
    return verdict(done.returncode, done.stdout, backend)
