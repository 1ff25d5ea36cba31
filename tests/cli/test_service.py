"""The files that let systemd, launchd and Windows start a server, and the commands around them."""

import platform
import plistlib
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from localinfra.cli import service
from localinfra.cli.main import main
from localinfra.cli.managers import Job, Manager, launchd, systemd, task_scheduler, url_in
from localinfra.errors import ApiError

HOSTILE = "a b%h \"c\" 'd' $HOME ${X} \\e;f&g<h"  # all of it is allowed in a path on Linux
MANAGERS = {
    "systemd": systemd(PurePosixPath("/home/me/.config")),
    "launchd": launchd(PurePosixPath("/Users/Me & You"), 501),
    "windows": task_scheduler(PureWindowsPath(r"C:\Users\Me & You\AppData\Local"), r"PC\Me & You"),
}


def job(*arguments: str, **environment: str) -> Job:
    return Job((sys.executable, *arguments), environment, "http://localhost:8000")


def files(manager: Manager, job: Job) -> dict[str, bytes]:
    named = (path.name for path in manager.paths)
    return dict(zip(named, manager.contents(job), strict=True))


# --- The files ----------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "a b%h $HOME;&" / "python"  # of a program's path, it refuses quotes
    wanted = Job((str(program), "-m", HOSTILE), {"A": HOSTILE}, "http://[::1]:8000")
    unit = tmp_path / "localinfra.service"
    unit.write_bytes(MANAGERS["systemd"].contents(wanted)[0])
    command = ["systemd-analyze", "--user", "verify", "--man=no", str(unit)]
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}

    def verified() -> tuple[int, str]:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode, done.stderr

    status, complaint = verified()
    assert status == 1 and f"{program} is not executable" in complaint  # it reads the path whole
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    assert verified() == (0, "")


def test_a_unit_quotes_what_systemd_would_replace() -> None:
    (unit,) = files(MANAGERS["systemd"], job("x y", '50% "z\\', K="a\nb")).values()
    lines = unit.decode().splitlines()
    assert f'ExecStart=":{sys.executable}" "x y" "50%% \\"z\\\\"' in lines
    assert 'Environment="K=a\\nb"' in lines
    assert "Restart=on-failure" in lines and "WantedBy=default.target" in lines


def test_a_property_list_holds_the_command_and_the_environment_as_they_are() -> None:
    (text,) = files(MANAGERS["launchd"], job(HOSTILE, KEY=HOSTILE)).values()
    agent = plistlib.loads(text)
    assert agent["ProgramArguments"] == [sys.executable, HOSTILE]
    assert agent["EnvironmentVariables"] == {"KEY": HOSTILE}
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["StandardErrorPath"] == "/Users/Me & You/Library/Logs/localinfra.log"


def test_a_windows_task_runs_its_script_at_the_users_login_without_a_limit() -> None:
    names = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    task = ElementTree.fromstring(files(MANAGERS["windows"], job())["task.xml"])

    def text(path: str) -> str | None:
        return task.findtext("/".join(f"t:{name}" for name in path.split("/")), namespaces=names)

    assert text("Triggers/LogonTrigger/UserId") == r"PC\Me & You"
    assert text("Settings/ExecutionTimeLimit") == "PT0S"
    script = r"C:\Users\Me & You\AppData\Local\localinfra\service\serve.cmd"
    assert text("Actions/Exec/Arguments") == f'--headless cmd.exe /d /s /c ""{script}""'


def test_a_windows_script_quotes_every_word_and_starts_again_what_failed() -> None:
    wanted = Job((r"C:\a & b\python.exe", "100%", "C:\\"), {"KEY": "50% ^& off"}, "http://[::1]:1")
    lines = files(MANAGERS["windows"], wanted)["serve.cmd"].decode().split("\r\n")
    log = r'"C:\Users\Me & You\AppData\Local\localinfra\service\log.txt"'
    assert 'set "KEY=50%% ^& off"' in lines
    assert f'"C:\\a & b\\python.exe" "100%%" "C:\\\\" >>{log} 2>&1' in lines
    assert lines.index(":again") < lines.index("goto again")


@pytest.mark.parametrize("name", MANAGERS)
def test_the_first_file_says_where_the_server_listens(name: str) -> None:
    text = MANAGERS[name].contents(job(HTTP_PROXY="http://proxy:1"))[0].decode()
    assert url_in(text) == "http://localhost:8000"


# --- The commands -------------------------------------------------------------------------------

FAKE = """\
#!/bin/sh
echo "$*" >>"{folder}/calls"
case "$*" in
*is-active*) [ -e "{folder}/running" ] ;;
*"enable --now"*) touch "{folder}/running" ;;
*"disable --now"*) rm "{folder}/running" ;;
*show-environment*) [ ! -e "{folder}/absent" ] ;;
esac
"""
Called = Callable[..., Result]


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Called:
    """`localinfra service ...` beside a systemctl that notes how it was called."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(FAKE.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    for variable in ("LOCALINFRA_CONFIG", "LOCALINFRA_CACHE", "LOCALINFRA_API_KEYS"):
        monkeypatch.delenv(variable, raising=False)
    # Tests may run from a folder of sources that no other folder finds.
    monkeypatch.setattr(service, "check_program", lambda program: None)
    return lambda *arguments: CliRunner().invoke(main, ["service", *arguments])


def unit_of(tmp_path: Path) -> Path:
    return tmp_path / "config" / "systemd" / "user" / "localinfra.service"


def test_a_service_is_installed_started_and_removed(called: Called, tmp_path: Path) -> None:
    done = called("install", "--port", "1")
    assert done.exit_code == 0, done.output
    assert "http://localhost:1/v1" in done.output and "loginctl enable-linger" in done.output
    unit = unit_of(tmp_path)
    assert '"-P" "-m" "localinfra" "serve" "--supervised" "--port" "1"' in unit.read_text()
    assert "OOMPolicy=continue" in unit.read_text()  # the supervisor outlives such a server
    assert called("status").exit_code == 0

    (tmp_path / "running").unlink()  # it failed
    done = called("status")
    assert done.exit_code == 3 and "does not run" in done.output and "journalctl" in done.output

    assert called("remove").exit_code == 0
    assert not unit.exists()
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "--user daemon-reload"
    assert called("status").exit_code == 3
    assert "No service" in called("remove").output


def test_a_service_keeps_keys_and_folders_of_the_terminal_for_its_user_alone(
    called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCALINFRA_API_KEYS", "secret")
    monkeypatch.setenv("LOCALINFRA_API_KEY", "a client's")
    monkeypatch.setenv("HF_HOME", "hub")
    done = called("install", "--host", "0.0.0.0", "--port", "1")
    assert done.exit_code == 0, done.output
    assert "LOCALINFRA_API_KEYS" in done.output and "secret" not in done.output
    unit = unit_of(tmp_path)
    assert 'Environment="LOCALINFRA_API_KEYS=secret"' in unit.read_text()
    assert f'Environment="HF_HOME={tmp_path}/hub"' in unit.read_text()
    assert "client's" not in unit.read_text()
    assert stat.S_IMODE(unit.stat().st_mode) == 0o600


def test_a_service_gets_the_settings_file_by_its_full_path(
    called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my models.toml").write_text("server.port = 1")
    for environment, arguments in (("", ("--config", "my models.toml")), ("my models.toml", ())):
        monkeypatch.setenv("LOCALINFRA_CONFIG", environment)
        done = called("install", *arguments)
        assert done.exit_code == 0, done.output
        assert f'"--config" "{tmp_path}/my models.toml"' in unit_of(tmp_path).read_text()
        unit_of(tmp_path).unlink()


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ("prot = 1", (), "did you mean port"),
        ("port = 0", (), "give a --port"),
        ("port = 1", ("--host", "0.0.0.0"), "without an API key"),
    ],
)
def test_a_server_that_could_not_start_is_not_installed(
    called: Called, tmp_path: Path, settings: str, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "models.toml").write_text(f"[server]\n{settings}")
    done = called("install", "--config", str(tmp_path / "models.toml"), *arguments)
    assert done.exit_code in (1, 2) and message in done.output
    assert not unit_of(tmp_path).exists()


def test_a_service_takes_no_address_of_another_program(called: Called, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = called("install", "--host", "127.0.0.1", "--port", str(other.getsockname()[1]))
    assert done.exit_code == 1 and "another --port" in done.output
    assert not unit_of(tmp_path).exists()


def test_where_no_manager_answers_the_command_says_what_to_do(
    called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "absent").touch()
    for command in ("install", "remove", "status"):
        done = called(command)
        assert done.exit_code == 1 and re.search("no systemd manager.*WSL", done.output)
    monkeypatch.setattr(platform, "system", lambda: "FreeBSD")
    done = called("install")
    assert done.exit_code == 1 and "FreeBSD" in done.output


def test_a_command_of_the_manager_that_fails_is_shown_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="`sh -c 'echo no luck; exit 1'` failed: no luck"):
        service.run(("sh", "-c", "echo no luck; exit 1"))


def test_a_command_of_the_manager_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "COMMAND_LIMIT_S", 0.1)
    with pytest.raises(ApiError, match="`sleep 600` did not end within"):
        service.run(("sleep", "600"))


def test_an_environment_in_a_cache_is_refused_and_no_other(tmp_path: Path) -> None:
    environment = tmp_path / "uv" / "archive-v0" / "a1b2"
    environment.mkdir(parents=True)
    (environment / "CACHEDIR.TAG").touch()
    service.check_stays(environment)
    (tmp_path / "uv" / "CACHEDIR.TAG").touch()
    with pytest.raises(ApiError, match="uv tool install"):
        service.check_stays(environment)


def test_a_python_that_finds_localinfra_here_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ApiError, match="does not find localinfra"):
        service.check_program((sys.executable, "-P", "-m", "elsewhere"))
