"""`localinfra setup`: installs the llama.cpp that suits this machine into this environment.

For environments made by pip or uv. A checkout's own is made by `scripts/serve`, by the same rules
(`llama_builds.py`).
"""

import os
import shlex
import subprocess
import sys

import click

from localinfra import install, llama_usable
from localinfra.backend_detect import BACKENDS, best_backend, look
from localinfra.errors import ApiError
from localinfra.llama_builds import TRIAL, attempts, missing_tool, tools, verdict
from localinfra.machine import cache_folder, cpu


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

    Takes a ready-made one of its authors if there is one that runs here, and compiles it else.
    CMAKE_ARGS is heeded.
    """
    machine = look()
    backend = backend or best_backend(machine)
    arguments = os.environ.get("CMAKE_ARGS", "")
    if not compiles and not arguments and not trial(backend):
        click.echo(f"llama.cpp for {backend} is installed and runs: there is nothing to do.")
        return
    requirement = install.pinned("llama-cpp-python")
    cache = cache_folder("pip") / cpu().split()[-1]
    ways = attempts(requirement, backend, machine, False, arguments, cache)
    for way in ways:
        if compiles and not way.compiles:
            continue
        if way.compiles and (missing := missing_tool(backend, machine, tools())):
            raise ApiError(missing)
        click.echo(f"llama.cpp for {backend}, {way.title}")
        command = install.pip_command("--no-deps", "--force-reinstall", *way.pip_arguments)
        if not succeeds(command, way.environment):
            click.echo("That failed: the lines above say why.")
            continue
        if not (fault := trial(backend)):
            click.echo(f"llama.cpp for {backend} is installed and runs.")
            return
        click.echo(f"This build of llama.cpp does not work: {fault}.")
    raise ApiError(f"There is no llama.cpp for {backend} that works here.")


def succeeds(command: list[str], environment: dict[str, str]) -> bool:
    """Runs pip. Raises ApiError if there is none."""
    try:
        return subprocess.run(command, env={**os.environ, **environment}).returncode == 0
    except FileNotFoundError:
        brings = shlex.join([sys.executable, "-m", "ensurepip"])
        raise ApiError(
            f"This environment has no pip, and {command[0]} is not found. This brings pip: {brings}"
        ) from None


def trial(backend: str) -> str:
    """What is wrong with the installed build; "" if nothing is."""
    if fault := llama_usable.problem():
        return fault
    done = subprocess.run(
        [sys.executable, "-P", "-c", TRIAL],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return verdict(done.returncode, done.stdout, backend)
