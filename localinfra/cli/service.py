"""`localinfra service`: lets the system start the server, and says whether it runs."""

import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import click

from localinfra.cli.child import is_healthy
from localinfra.cli.client import Client
from localinfra.cli.file_checks import check_files
from localinfra.cli.managers import (
    EXIT_LIMIT_S,
    Command,
    Job,
    Manager,
    launchd,
    systemd,
    task_scheduler,
    url_in,
)
from localinfra.cli.terminal import private
from localinfra.config import settings as config_file
from localinfra.config.settings import local_url
from localinfra.errors import ApiError
from localinfra.origin import Origin

CACHE_MARK = "CACHEDIR.TAG"  # https://bford.info/cachedir/
NOT_RUNNING = 3  # as `systemctl status` exits
COMMAND_LIMIT_S = EXIT_LIMIT_S + 30  # to stop a service, it waits for its running answers

# Variables of this terminal that the server reads, itself or in a library.
PATHS = r"(LOCALINFRA|XDG)_(CACHE|DATA)(_HOME)?|HF_HOME|(HF|HUGGINGFACE)_HUB_CACHE|OLLAMA_MODELS"
KEPT = re.compile(
    rf"({PATHS})|LOCALINFRA_(API_KEYS|ALLOWED_HOSTS|TLS_KEY_PASSWORD)|HF_\w+|TRANSFORMERS_OFFLINE"
    r"|CUDA_\w+|GGML_\w+|OMP_NUM_THREADS|(LD|DYLD)_LIBRARY_PATH"
    r"|SSL_CERT_(FILE|DIR)|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy"
)


@click.group()
def service() -> None:
    """Let the system start the server: at each login, and again if it fails."""


@service.command()
@click.option("--host", help="Address to listen on. Default: the settings' host.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: the settings' port.")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Another models.toml.")
def install(host: str | None, port: int | None, path: Path | None) -> None:
    """Start the server now and at each login. Once more, it takes up changed settings."""
    manager = usable_manager()
    job = make_job(host, port, path)
    check_address(manager, job)
    with suppress(ApiError):  # none was installed
        run(*manager.stop)
    for place, content in zip(manager.paths, manager.contents(job), strict=True):
        write(Path(place), content)
    run(*manager.start)
    click.echo(f"{manager.name} starts the server, now and at each login: {job.url}/v1")
    if job.environment:
        click.echo(f"It keeps of this terminal: {', '.join(job.environment)}")
    for line in ("Whether it runs:      localinfra service status", *manager.advice):
        click.echo(line)


@service.command()
def remove() -> None:
    """End the server that was installed, and start it no more. Models and settings stay."""
    manager = usable_manager()
    if not is_installed(manager):
        click.echo("No service is installed.")
        return
    with suppress(ApiError):  # it does not run
        run(*manager.stop)
    for place in manager.paths:
        Path(place).unlink(missing_ok=True)
    run(*manager.forget)
    click.echo("The service is removed.")


@service.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="Its models.toml.")
@click.pass_context
def status(context: click.Context, path: Path | None) -> None:
    """Say whether the service is installed, runs and answers. Exits with 3 if it does not run."""
    manager = usable_manager()
    if not is_installed(manager):
        click.echo("No service is installed: `localinfra service install` does that.")
        context.exit(NOT_RUNNING)
    runs = succeeds(manager.is_running)
    click.echo(f"Installed for {manager.name}: {manager.paths[0]}")
    certificate = config_file.load(path).server.tls_cert
    click.echo(state(runs, installed_url(manager), certificate))
    for line in manager.advice:
        click.echo(line)
    context.exit(0 if runs else NOT_RUNNING)


def state(runs: bool, url: str | None, certificate: str | None = None) -> str:
    if not runs:
        return "It does not run: its log says why."
    try:
        is_ready = url is not None and is_healthy(Client(url, certificate=certificate))
    except ApiError as error:
        if url and url.startswith("https:"):
            return f"It runs, but can't be asked: {error.message}"
        return f"It runs, but nothing answers at {url} yet: it starts, or its log says why."
    return f"It runs and answers at {url}/v1." if is_ready else f"It runs at {url}, not healthy."


# --- This machine -------------------------------------------------------------------------------


def this_manager() -> Manager:
    """Raises ApiError where there is none."""
    system = platform.system()
    if system == "Linux":
        named = os.environ.get("XDG_CONFIG_HOME", "")
        return systemd(Path(named) if os.path.isabs(named) else Path.home() / ".config")
    if system == "Darwin":
        return launchd(Path.home(), os.getuid())
    if system == "Windows":
        user = f"{os.environ['USERDOMAIN']}\\{os.environ['USERNAME']}"
        return task_scheduler(Path(os.environ["LOCALAPPDATA"]), user)
    raise ApiError(f"localinfra knows no service manager of {system}: use its own for `serve`.")


def usable_manager() -> Manager:
    manager = this_manager()
    if not succeeds(manager.probe):
        raise ApiError(f"There is no service here: {manager.unusable}")
    return manager


def is_installed(manager: Manager) -> bool:
    return Path(manager.paths[0]).exists()


def installed_url(manager: Manager) -> str | None:
    try:
        return url_in(Path(manager.paths[0]).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def make_job(host: str | None, port: int | None, path: Path | None) -> Job:
    """Raises ConfigError if a server could not start with these settings, and ApiError if it could
    not from another folder."""
    flags = {"host": host, "port": port}
    given = {name: value for name, value in flags.items() if value is not None}
    settings, _ = Origin(path, (), given, check_files).read()
    if not settings.port:
        raise ApiError("port = 0 takes any free port, which nobody would find: give a --port.")
    check_stays(Path(sys.prefix))
    program = (sys.executable, "-P", "-m", "localinfra")  # -P: whatever lies in the start folder
    check_program(program)
    options = ["--supervised"] if os.name == "posix" else []
    options += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    if path or os.environ.get("LOCALINFRA_CONFIG"):
        options += ["--config", str(config_file.find_file(path).absolute())]
    return Job((*program, "serve", *options), kept(os.environ), local_url(settings))


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """What the server needs of this terminal's variables, with absolute paths."""
    found = {}
    for name, value in environment.items():
        match = KEPT.fullmatch(name)
        if match and value.isprintable():  # no manager's files have room for line breaks
            found[name] = absolute(value) if match[1] else value
    return found


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(os.path.expandvars(path)))


def check_stays(environment: Path) -> None:
    """Raises ApiError for an environment of uvx, which lies in uv's cache and goes with it. Its own
    mark does not count: uv marks every environment so."""
    if any((folder / CACHE_MARK).exists() for folder in environment.parents):
        raise ApiError(
            f"{environment} is in a cache, which may be emptied at any time, as those of uvx are. "
            "Install localinfra by pip or `uv tool install`, and run this again from there."
        )


def check_program(program: Command) -> None:
    """The manager has neither this terminal's folder nor its PYTHONPATH. Raises ApiError."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    command = [*program, "--version"]
    if subprocess.run(command, cwd=Path.home(), env=environment, capture_output=True).returncode:
        raise ApiError(
            f"{sys.executable} does not find localinfra from other folders: install it there with "
            "pip, or use `scripts/serve`, which makes an environment."
        )


def check_address(manager: Manager, job: Job) -> None:
    """Raises ApiError if another program has the address."""
    parts = urlsplit(job.url)
    is_own = installed_url(manager) == job.url and succeeds(manager.is_running)
    if not is_own and is_taken(parts.hostname or "", parts.port or 0):
        raise ApiError(
            f"A program listens at {job.url} already. If it is a server, end it with "
            "`localinfra stop` and run this again; else choose another --port."
        )


def is_taken(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def write(path: Path, content: bytes) -> None:
    """Readable for this user only: the environment may have keys."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with open(path, "wb", opener=private) as file:
            file.write(content)
    except OSError as error:
        raise ApiError(f"{path} can't be written: {error.strerror or error}") from None


def succeeds(command: Command) -> bool:
    try:
        run(command)
    except ApiError:
        return False
    return True


def run(*commands: Command) -> None:
    """Raises ApiError with the end of a command's output if it fails, or if it hangs."""
    for command in commands:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise ApiError(
                f"`{shlex.join(command)}` did not end within {COMMAND_LIMIT_S} s. Try it by itself."
            ) from None
        except OSError as error:
            raise ApiError(f"{command[0]}: {error.strerror or error}") from None
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise ApiError(f"`{shlex.join(command)}` failed: {said[-500:]}")
