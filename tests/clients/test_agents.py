"""Coding agents started by `localinfra launch`: a turn with a tool call that they carry out, and
the next one with its result."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from agents import MODEL, AgentServer, Exchange, calling
from client_env import Environment

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

ROOT = str(Path(__file__).resolve().parents[2])

# Pinned: package → the version that was tried.
CLAUDE_CODE = "@anthropic-ai/claude-code@2.1.197"
CODEX = "@openai/codex@0.171.0"
OPENCODE = "opencode-ai@1.18.33"
QWEN_CODE = "@qwen-code/qwen-code@0.15.10"
AIDER = "aider-chat==0.86.2"

TEXT = "rivers and lakes"
UNCONFINED = "--dangerously-bypass-approvals-and-sandbox"  # a machine may forbid its sandbox

READ = re.compile(rb'"(?:prompt|input)_tokens":(\d+)')
CACHED = re.compile(rb'"(?:cached_tokens|cache_read_input_tokens)":(\d+)')


def prompt_of(answer: bytes) -> tuple[int, int]:
    """The prompt's tokens, and how many of them were cached: the last ones that a stream tells."""
    num_read, num_cached = (int(found.findall(answer)[-1]) for found in (READ, CACHED))
    is_anthropics = b"cache_read_input_tokens" in answer  # where the two are counted apart
    return num_read + num_cached if is_anthropics else num_read, num_cached


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[AgentServer]:
    server = AgentServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def launch(agents: AgentServer, tmp_path: Path) -> Callable[..., str]:
    """Runs an agent in a folder with one file, in a home without settings."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "notes.txt").write_text(f"{TEXT}\n")

    def run(executables: Path, *arguments: str) -> str:
        command = [sys.executable, "-m", "localinfra", "launch", "--url", agents.url, *arguments]
        path = os.pathsep.join([str(executables), os.environ["PATH"]])
        home = {"HOME": str(tmp_path), "LOCALINFRA_CACHE": str(tmp_path / "cache")}
        home["PWD"] = str(folder)  # as a shell sets it: opencode reads that
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **home, "PATH": path, "PYTHONPATH": ROOT},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def check(exchanges: Sequence[Exchange]) -> None:
    """Nothing was refused, and the second turn found the prompt of the first one."""
    assert not [exchange for exchange in exchanges if exchange.status >= 400]
    first, second = [exchange for exchange in exchanges if b'"tools":[{' in exchange.body]
    assert json.loads(second.body)["model"] == MODEL
    (num_read, _), (_, num_cached) = prompt_of(first.answer), prompt_of(second.answer)
    assert num_cached >= 0.9 * num_read > 20_000


@pytest.mark.parametrize(
    ("package", "arguments", "call"),
    [
        (CLAUDE_CODE, ["claude", "--", "--allowedTools", "Read", "-p"],
         calling("Read", file_path="notes.txt")),
        (CODEX, ["codex", "--", "exec", "--skip-git-repo-check", UNCONFINED],
         calling("exec_command", cmd="cat<notes.txt")),
        (OPENCODE, ["opencode", "--", "run"], calling("read", filePath="notes.txt")),
        (QWEN_CODE, ["qwen", "--", "-y", "-p"], calling("grep_search", pattern="rivers")),
    ],
    ids=["claude", "codex", "opencode", "qwen"],
)  # fmt: skip
def test_an_agents_call_is_carried_out_and_its_result_read(
    launch: Callable[..., str],
    agents: AgentServer,
    node: Callable[..., Environment],
    package: str,
    arguments: list[str],
    call: str,
) -> None:
    programs = node(package).folder / "node_modules" / ".bin"
    shown = launch(programs, *arguments, call)
    assert "The tool says" in shown and TEXT in shown
    check(agents.exchanges)


def test_aider_gets_its_answer(
    launch: Callable[..., str], agents: AgentServer, python: Callable[..., Environment]
) -> None:
    """It calls no tools."""
    programs = Path(python(AIDER).executable).parent
    options = ["--yes", "--no-git", "--no-check-update", "--message"]
    assert "Fine." in launch(programs, "aider", "--", *options, "Hello")
    assert not [exchange for exchange in agents.exchanges if exchange.status >= 400]
