"""Coding agents, most of them started by `localinfra launch`: a turn with a tool call that they
carry out, the next one with its result, and a further one in the same session."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from agents import MODEL, AgentRelay, AgentServer, Exchange, calling
from client_env import ALSO_ON_RAY, Environment

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

ROOT = str(Path(__file__).resolve().parents[2])

# Pinned: package → the version that was tried.
CLAUDE_CODE = "@anthropic-ai/claude-code@2.1.197"
CODEX = "@openai/codex@0.171.0"
OPENCODE = "opencode-ai@1.18.33"
QWEN_CODE = "@qwen-code/qwen-code@0.15.10"
AIDER = "aider-chat==0.86.2"
LLM = ("llm==0.36", "llm-ollama==0.19.1")

TEXT = "rivers and lakes"
# A machine may forbid its sandbox.
UNCONFINED = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]

READ = re.compile(rb'"(?:prompt|input)_tokens":(\d+)')
CACHED = re.compile(rb'"(?:cached_tokens|cache_read_input_tokens)":(\d+)')


def prompt_of(answer: bytes) -> tuple[int, int]:
    """The prompt's tokens, and how many of them were cached: the last ones that a stream tells."""
    num_read, num_cached = (int(found.findall(answer)[-1]) for found in (READ, CACHED))
    is_anthropics = b"cache_read_input_tokens" in answer  # where the two are counted apart
    return num_read + num_cached if is_anthropics else num_read, num_cached


def programs_of(node: Environment) -> Path:
    return node.folder / "node_modules" / ".bin"


Agents = AgentServer | AgentRelay


@pytest.fixture(params=ALSO_ON_RAY)
def agents(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Agents]:
    server: Agents
    if request.param == "ray":
        server = AgentRelay(request.getfixturevalue("ray_server").url)
    else:
        server = AgentServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def run(agents: Agents, tmp_path: Path) -> Callable[..., str]:
    """Runs a command in a folder with one file, in a home without settings."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "notes.txt").write_text(f"{TEXT}\n")

    def run(executables: Path, *command: str, **variables: str) -> str:
        path = os.pathsep.join([str(executables), os.environ["PATH"]])
        home = {"HOME": str(tmp_path), "LOCALINFRA_CACHE": str(tmp_path / "cache")}
        home["PWD"] = str(folder)  # as a shell sets it: opencode reads that
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **home, "PATH": path, **variables},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def launch(run: Callable[..., str], agents: Agents) -> Callable[..., str]:
    command = [sys.executable, "-m", "localinfra", "launch", "--url", agents.url, "--model", MODEL]

    def launch(executables: Path, *arguments: str) -> str:
        return run(executables, *command, *arguments, PYTHONPATH=ROOT)

    return launch


def with_tools(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Without side requests, such as for titles."""
    return [exchange for exchange in exchanges if b'"tools":[{' in exchange.body]


def check(exchanges: Sequence[Exchange], min_tokens: int) -> None:
    """Nothing was refused, and each turn found the prompt of the one before it."""
    assert not [exchange for exchange in exchanges if exchange.status >= 400]
    turns = with_tools(exchanges)
    assert {json.loads(turn.body)["model"] for turn in turns} == {MODEL}
    for before, after in itertools.pairwise(turns[:3]):
        (num_read, _), (_, num_cached) = prompt_of(before.answer), prompt_of(after.answer)
        assert num_cached >= 0.9 * num_read > 0.9 * min_tokens


@pytest.mark.parametrize(
    ("package", "first", "again", "call"),
    [
        (CLAUDE_CODE, ["claude", "--", "--allowedTools", "Read", "-p"],
         ["claude", "--", "-c", "-p"], calling("Read", file_path="notes.txt")),
        (CODEX, ["codex", "--", "exec", *UNCONFINED],
         ["codex", "--", "exec", "resume", "--last", *UNCONFINED],
         calling("exec_command", cmd="cat<notes.txt")),
        (OPENCODE, ["opencode", "--", "run"], ["opencode", "--", "run", "-c"],
         calling("read", filePath="notes.txt")),
        (QWEN_CODE, ["qwen", "--", "-y", "-p"], ["qwen", "--", "-c", "-y", "-p"],
         calling("grep_search", pattern="rivers")),
    ],
    ids=["claude", "codex", "opencode", "qwen"],
)  # fmt: skip
def test_an_agents_call_is_carried_out_and_its_session_continued(
    launch: Callable[..., str],
    agents: Agents,
    node: Callable[..., Environment],
    package: str,
    first: list[str],
    again: list[str],
    call: str,
) -> None:
    programs = programs_of(node(package))
    shown = launch(programs, *first, call)
    assert "The tool says" in shown and TEXT in shown
    assert len(with_tools(agents.exchanges)) == 2
    assert "Fine." in launch(programs, *again, "Go on.")
    check(agents.exchanges, min_tokens=20_000)


def test_codex_compacts_a_session_with_nothing_set_but_the_base_url(
    run: Callable[..., str], agents: Agents, node: Callable[..., Environment]
) -> None:
    """It takes the server for OpenAI's own: it tries a WebSocket first, and has the service
    summarize the conversation."""
    programs = programs_of(node(CODEX))
    options = [*UNCONFINED, "-m", MODEL, "-c", f'openai_base_url="{agents.url}/v1"']
    run(programs, "codex", "exec", *options, "Hello", CODEX_API_KEY="none")
    resumed = ["codex", "exec", "resume", "--last", "-c", "model_auto_compact_token_limit=1"]
    shown = run(programs, *resumed, *options, "Go on.", CODEX_API_KEY="none")
    assert shown.strip() == "Fine."
    refused = [exchange for exchange in agents.exchanges if exchange.status >= 400]
    assert all(exchange.status == 426 for exchange in refused)
    *_, asked, then = agents.exchanges
    assert json.loads(asked.body)["input"][-1] == {"type": "compaction_trigger"}
    kinds = [item["type"] for item in json.loads(then.body)["input"]]
    assert kinds.count("compaction") == 1 and "function_call" not in kinds


def test_aider_gets_its_answer(
    launch: Callable[..., str], agents: Agents, python: Callable[..., Environment]
) -> None:
    """It calls no tools."""
    programs = Path(python(AIDER).executable).parent
    options = ["--yes", "--no-git", "--no-check-update", "--message"]
    assert "Fine." in launch(programs, "aider", "--", *options, "Hello")
    assert not [exchange for exchange in agents.exchanges if exchange.status >= 400]


@pytest.fixture
def llm(
    run: Callable[..., str], python: Callable[..., Environment], tmp_path: Path
) -> Callable[..., str]:
    """Runs llm with a function that reads a file."""
    (tmp_path / "tools.py").write_text(
        'def read(path: str) -> str:\n    "A file\'s text."\n    return open(path).read()\n'
    )
    programs = Path(python(*LLM).executable).parent
    functions = ["--functions", str(tmp_path / "tools.py")]

    def llm(*words: str, **variables: str) -> str:
        return run(programs, "llm", *words, *functions, LLM_USER_PATH=str(tmp_path), **variables)

    return llm


def test_llm_runs_a_function_and_continues(
    llm: Callable[..., str], agents: Agents, tmp_path: Path
) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"[{{model_id: {MODEL}, model_name: {MODEL}, api_base: {agents.url}/v1, "
        "supports_tools: true}]"
    )
    # Without Ollama, whose models are listed by the plugin.
    host = {"OLLAMA_HOST": "http://127.0.0.1:9"}
    shown = llm("-m", MODEL, calling("read", path="notes.txt"), **host)
    assert "The tool says" in shown and TEXT in shown
    assert "Fine." in llm("-c", "Go on.", **host)
    assert len(with_tools(agents.exchanges)) == 3
    check(agents.exchanges, min_tokens=100)


def test_llm_finds_a_model_and_runs_a_function_over_ollamas_api(
    llm: Callable[..., str], agents: Agents
) -> None:
    asked = calling("read", path="notes.txt")
    shown = llm("-m", f"ollama/{MODEL}", asked, OLLAMA_HOST=agents.url)
    assert "The tool says" in shown and TEXT in shown
    assert [each.path for each in agents.exchanges].count("POST /api/chat") == 2
