"""What starts a server at each login: systemd on Linux, launchd on macOS, Windows' Task Scheduler.

A manager turns a job into the texts of its files, and names the commands that make it known. Knows
values only: `service.py` writes the files and runs the commands.
"""

import plistlib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from xml.sax.saxutils import escape

RETRY_S = 10  # pause before a server that failed is started again
EXIT_LIMIT_S = 90  # for running answers to end, as systemd has it; launchd's own may be 5
DESCRIPTION = re.compile(r"localinfra at (https?://[^\s<]+)")


@dataclass(frozen=True)
class Job:
    command: tuple[str, ...]  # the program's absolute path and its arguments
    environment: Mapping[str, str]
    url: str  # where it listens, for clients on this machine

    @property
    def description(self) -> str:
        return f"localinfra at {self.url}"


Command = tuple[str, ...]


@dataclass(frozen=True)
class Manager:
    name: str
    probe: Command  # fails where this manager can't be used
    unusable: str  # why, and what to do instead
    paths: tuple[PurePath, ...]  # of its files; the first is there while the service is installed
    contents: Callable[[Job], tuple[bytes, ...]]  # of the files
    start: tuple[Command, ...]  # once the files are there
    stop: tuple[Command, ...]  # before they change or go; fails if no such service runs
    forget: tuple[Command, ...]  # once they are gone
    is_running: Command  # succeeds while the server runs
    advice: tuple[str, ...]  # next steps, a line for each


def url_in(text: str) -> str | None:
    """Where the service with this file listens."""
    found = DESCRIPTION.search(text)
    return found[1] if found else None


# --- systemd ------------------------------------------------------------------------------------

# By default systemd ends the supervisor too when a server is killed for lack of memory: nobody
# would note which model was to blame, and it would be loaded so for ever.
UNIT = """\
[Unit]
Description={description}

[Service]
ExecStart={command}
{environment}KillMode=mixed
OOMPolicy=continue
Restart=on-failure
RestartSec={retry_s}

[Install]
WantedBy=default.target
"""


def systemd(config_folder: PurePath) -> Manager:
    """A unit of the user's own manager (systemd.service(5)). `config_folder`: $XDG_CONFIG_HOME."""
    control = ("systemctl", "--user")
    return Manager(
        name="systemd",
        probe=(*control, "show-environment"),
        unusable=(
            "no systemd manager of this user answers (`systemctl --user` fails). Log in as "
            "yourself instead of through su or sudo; in WSL set systemd=true in /etc/wsl.conf; in "
            "a container its own restart policy does this."
        ),
        paths=(config_folder / "systemd" / "user" / "localinfra.service",),
        contents=lambda job: (unit(job).encode(),),
        start=((*control, "daemon-reload"), (*control, "enable", "--now", "localinfra.service")),
        stop=((*control, "disable", "--now", "localinfra.service"),),
        forget=((*control, "daemon-reload"),),
        is_running=(*control, "is-active", "--quiet", "localinfra.service"),
        advice=(
            "Its log:              journalctl --user -u localinfra -f",
            "Also without a login: loginctl enable-linger",
        ),
    )


def unit(job: Job) -> str:
    settings = (f"{name}={value}" for name, value in job.environment.items())
    return UNIT.format(
        description=job.description.replace("%", "%%"),
        # The colon keeps systemd from replacing $NAME in arguments (since version 244).
        command=" ".join(map(in_unit, (":" + job.command[0], *job.command[1:]))),
        environment="".join(f"Environment={in_unit(setting)}\n" for setting in settings),
        retry_s=RETRY_S,
    )


def in_unit(word: str) -> str:
    """The word in quotes, with nothing in it that systemd would replace."""
    for sign, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("\n", "\\n")):
        word = word.replace(sign, written)
    return f'"{word}"'


# --- launchd ------------------------------------------------------------------------------------

LABEL = "org.localinfra.server"


def launchd(home: PurePath, uid: int) -> Manager:
    """An agent of the user's graphical session (launchd.plist(5))."""
    path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    log = home / "Library" / "Logs" / "localinfra.log"
    session, agent = f"gui/{uid}", f"gui/{uid}/{LABEL}"
    shown = f"launchctl print {agent} 2>/dev/null"
    return Manager(
        name="launchd",
        probe=("launchctl", "print", session),
        unusable=(
            "this user has no graphical session (`launchctl print` fails): log in at the Mac "
            "itself first."
        ),
        paths=(path,),
        contents=lambda job: (property_list(job, log),),
        start=(
            ("launchctl", "enable", agent),  # an earlier `launchctl disable` is remembered
            ("launchctl", "bootstrap", session, str(path)),
        ),
        # bootout does not wait, and bootstrap fails until the old agent is gone.
        stop=(("sh", "-c", f"launchctl bootout {agent} && while {shown}; do sleep 1; done"),),
        forget=(),
        is_running=("sh", "-c", f"{shown} | grep -q 'state = running'"),
        advice=(f"Its log: tail -f {shlex.quote(str(log))}",),
    )


def property_list(job: Job, log: PurePath) -> bytes:
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ServiceDescription": job.description,
            "ProgramArguments": list(job.command),
            "EnvironmentVariables": dict(job.environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RETRY_S,
            "ExitTimeOut": EXIT_LIMIT_S,
            "ProcessType": "Interactive",  # others get less of the CPU and the disk
            "StandardOutPath": str(log),
            "StandardErrorPath": str(log),
        }
    )


# --- Task Scheduler -----------------------------------------------------------------------------

TASK = """\
<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo><Description>{description}</Description></RegistrationInfo>
  <Triggers>
    <LogonTrigger><Enabled>true</Enabled><UserId>{user}</UserId></LogonTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>{user}</UserId>
      <LogonType>InteractiveToken</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>5</Priority>
  </Settings>
  <Actions Context="Author">
    <Exec><Command>conhost.exe</Command><Arguments>{arguments}</Arguments></Exec>
  </Actions>
</Task>
"""

# The Task Scheduler has neither environments nor logs, and starts nothing again that has failed.
SCRIPT = """\
@echo off
rem {description}
chcp 65001 >nul
{environment}:again
{command} >>{log} 2>&1
if %errorlevel% equ 0 exit /b 0
ping -n {pings} 127.0.0.1 >nul
goto again
"""


def task_scheduler(data_folder: PurePath, user: str) -> Manager:
    """A task of the user, without a window, whose script starts the server again if it fails.
    `data_folder`: %LOCALAPPDATA%; `user`: DOMAIN\\NAME."""
    folder = data_folder / "localinfra" / "service"
    script_path, task_path, log = folder / "serve.cmd", folder / "task.xml", folder / "log.txt"
    named = ("/tn", "localinfra")
    state = "exit [int]((Get-ScheduledTask localinfra).State -ne 'Running')"
    return Manager(
        name="Task Scheduler",
        probe=("schtasks", "/query", "/fo", "list"),
        unusable="Windows' Task Scheduler does not answer (`schtasks /query` fails).",
        paths=(script_path, task_path),
        contents=lambda job: (
            script(job, log).replace("\n", "\r\n").encode(),
            task(job, user, script_path).encode("utf-16"),
        ),
        start=(
            ("schtasks", "/create", *named, "/xml", str(task_path), "/f"),
            ("schtasks", "/run", *named),
        ),
        stop=(("schtasks", "/end", *named),),
        forget=(("schtasks", "/delete", *named, "/f"),),
        is_running=("powershell", "-NoProfile", "-Command", state),
        advice=(f'Its log: Get-Content -Wait "{log}"',),
    )


def task(job: Job, user: str, script_path: PurePath) -> str:
    """https://learn.microsoft.com/windows/win32/taskschd/task-scheduler-schema"""
    return TASK.format(
        description=escape(job.description),
        user=escape(user),
        arguments=escape(f'--headless cmd.exe /d /s /c ""{script_path}""'),
    )


def script(job: Job, log: PurePath) -> str:
    settings = (f"{name}={value}" for name, value in job.environment.items())
    return SCRIPT.format(
        description=job.description,
        environment="".join(f"set {in_script(setting)}\n" for setting in settings),
        command=" ".join(map(in_script, job.command)),
        log=in_script(str(log)),
        pings=RETRY_S + 1,  # the first at once, then one a second
    )


def in_script(word: str) -> str:
    """The word in quotes, with nothing in it that cmd.exe would replace."""
    before_quote = "\\" * (len(word) - len(word.rstrip("\\")))  # a single one would escape it
    return f'"{word}{before_quote}"'.replace("%", "%%")
