"""`localinfra launch` with programs that stand for the agents: what they are started with."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import openai
import pytest
from children import started
from echo import ECHO, EchoServer

from localinfra.cli.launch import AGENTS

# A script's first line can't name a path with spaces, as this Python's may be.
STARTER = f"""#!/bin/sh
exec '{sys.executable}' "$0.py" "$@"
"""
# Records what it is started with, and ends with the status that its argument names; by default at
# a signal.
AGENT = """
import json, os, signal, sys
from pathlib import Path
settings = os.environ.get("QWEN_CODE_SYSTEM_SETTINGS_PATH", "")
metadata = os.environ.get("AIDER_MODEL_METADATA_FILE", "")
if sys.argv[1:] == ["wait"]:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(43))
found = {
    "arguments": sys.argv[1:],
    "environment": dict(os.environ),
    "file": json.loads(Path(settings or metadata).read_text()) if settings or metadata else None,
}
print(json.dumps(found), flush=True)
if sys.argv[1:] == ["wait"]:
    signal.pause()
sys.exit(int(sys.argv[-1]) if sys.argv[-1].isdecimal() else 0)
"""
KEY = "a key"


class Started(NamedTuple):
    arguments: list[str]
    environment: dict[str, str]
    file: Any


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path_factory.mktemp("models"))
    yield server
    server.close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """In which all agents are installed."""
    for name in AGENTS:
        (tmp_path / f"{name}.py").write_text(AGENT)
        (tmp_path / name).write_text(STARTER)
        (tmp_path / name).chmod(0o700)
    kept = {name: value for name, value in os.environ.items() if "LOCALINFRA" not in name}
    return {**kept, "PATH": str(tmp_path), "LOCALINFRA_CACHE": str(tmp_path / "cache")}


def run(environment: dict[str, str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "localinfra", "launch", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def launched(environment: dict[str, str], *arguments: object) -> Started:
    done = run(environment, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    changed = {
        name: value
        for name, value in found["environment"].items()
        if environment.get(name) != value
    }
    return Started(found["arguments"], changed, found["file"])


def test_claude_code(server: EchoServer, environment: dict[str, str]) -> None:
    asked = ("--url", server.url, "--key", KEY, "--model", "echo", "--", "-p", "Hi")
    agent = launched({**environment, "ANTHROPIC_API_KEY": "sk-ant-x"}, "claude", *asked)
    assert agent.arguments == ["-p", "Hi"]
    assert agent.environment == {
        "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_AUTH_TOKEN": KEY, "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_MODEL": ECHO, "ANTHROPIC_SMALL_FAST_MODEL": ECHO,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": ECHO,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": ECHO, "ANTHROPIC_DEFAULT_HAIKU_MODEL": ECHO,
        "CLAUDE_CODE_SUBAGENT_MODEL": ECHO, "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "2048",
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "2048", "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "512",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }  # fmt: skip
    url, token = agent.environment["ANTHROPIC_BASE_URL"], agent.environment["ANTHROPIC_AUTH_TOKEN"]
    with anthropic.Anthropic(base_url=url, auth_token=token, max_retries=0) as client:
        answer = client.messages.create(
            model=agent.environment["ANTHROPIC_MODEL"], max_tokens=4,
            messages=[{"role": "user", "content": "Hi"}], extra_body={"temperature": 0},
        )  # fmt: skip
    assert answer.content[0].type == "text" and answer.content[0].text == "Hi"


def test_codex(server: EchoServer, environment: dict[str, str]) -> None:
    asked = ("--url", f"{server.url}/v1", "--key", KEY, "--", "exec", "Hi")
    agent = launched(environment, "codex", *asked)
    *options, model_option, model, command, prompt = agent.arguments
    assert (model_option, model, command, prompt) == ("-m", ECHO, "exec", "Hi")
    assert options[::2] == ["-c"] * 3
    config = tomllib.loads("\n".join(options[1::2]))
    assert config == {
        "model_provider": "localinfra", "model_context_window": 2048,
        "model_providers": {"localinfra": {
            "name": "localinfra", "base_url": f"{server.url}/v1", "wire_api": "responses",
            "env_key": "LOCALINFRA_API_KEY",
        }},
    }  # fmt: skip
    assert agent.environment == {"LOCALINFRA_API_KEY": KEY}


def test_opencode(server: EchoServer, environment: dict[str, str]) -> None:
    agent = launched(environment, "opencode", "--url", server.url)
    config = json.loads(agent.environment.pop("OPENCODE_CONFIG_CONTENT"))
    assert (agent.arguments, agent.environment) == ([], {})
    assert config["model"] == config["small_model"] == f"localinfra/{ECHO}"
    assert config["provider"]["localinfra"] == {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{server.url}/v1", "apiKey": "none"},
        "models": {
            ECHO: {"limit": {"context": 2048, "output": 512}, "cost": {"input": 1, "output": 2}}
        },
    }


def test_qwen_code(server: EchoServer, environment: dict[str, str]) -> None:
    agent = launched(environment, "qwen", "--url", server.url, "--", "-p", "Hi")
    path = agent.environment.pop("QWEN_CODE_SYSTEM_SETTINGS_PATH")
    assert Path(path).is_relative_to(environment["LOCALINFRA_CACHE"])
    assert agent.arguments == ["-p", "Hi"]
    assert agent.environment == {
        "OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "none", "OPENAI_MODEL": ECHO,
        "QWEN_CODE_MAX_OUTPUT_TOKENS": "512",
    }  # fmt: skip
    assert agent.file == {
        "security": {"auth": {"selectedType": "openai"}},
        "model": {"name": ECHO, "generationConfig": {"contextWindowSize": 2048}},
    }


def test_aider(server: EchoServer, environment: dict[str, str]) -> None:
    agent = launched(environment, "aider", "--url", server.url)
    del agent.environment["AIDER_MODEL_METADATA_FILE"]
    assert agent.environment == {
        "OPENAI_API_BASE": f"{server.url}/v1", "OPENAI_API_KEY": "none",
        "AIDER_MODEL": f"openai/{ECHO}", "AIDER_WEAK_MODEL": f"openai/{ECHO}",
    }  # fmt: skip
    [(name, details)] = agent.file.items()
    assert name == agent.environment["AIDER_MODEL"]
    assert (details["max_input_tokens"], details["max_output_tokens"]) == (2048, 512)
    prices = (details["input_cost_per_token"], details["output_cost_per_token"])
    assert prices == (0.000001, 0.000002)
    url, key = agent.environment["OPENAI_API_BASE"], agent.environment["OPENAI_API_KEY"]
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        answer = client.chat.completions.create(
            model=name.removeprefix("openai/"), temperature=0,
            messages=[{"role": "user", "content": "Hi"}],
        )  # fmt: skip
    assert answer.choices[0].message.content == "Hi"


def test_the_agents_exit_status_is_the_commands(
    server: EchoServer, environment: dict[str, str]
) -> None:
    assert run(environment, "codex", "--url", server.url, "--", "41").returncode == 41


def test_a_signal_reaches_the_agent(server: EchoServer, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "localinfra", "launch", "claude", "--url", server.url]
    with started(
        [*command, "--", "wait"], env=environment, stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdout and "wait" in agent.stdout.readline()
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 43


SHOWS_IGNORED = """#!/bin/sh
while read name mask; do [ "$name" = SigIgn: ] && echo "$mask"; done < /proc/self/status
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_agent_ends_with_a_closed_pipe_like_other_programs(
    server: EchoServer, environment: dict[str, str], tmp_path: Path
) -> None:
    """Python ignores SIGPIPE; programs that it becomes must not."""
    (tmp_path / "qwen").write_text(SHOWS_IGNORED)
    ignored = int(run(environment, "qwen", "--url", server.url).stdout, 16)
    assert not ignored & 1 << (signal.SIGPIPE - 1)


def test_the_document_says_how_to_install_each_agent() -> None:
    document = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
    for name, agent in AGENTS.items():
        assert f"{agent.install}\n" in document and f"localinfra launch {name}" in document


def test_a_small_context_is_reported(server: EchoServer, environment: dict[str, str]) -> None:
    warning = run(environment, "claude", "--url", server.url).stderr
    assert warning.startswith(f"warning: {ECHO} has a context of 2048 tokens, too few")


def test_an_agent_that_is_not_installed(environment: dict[str, str], tmp_path: Path) -> None:
    done = run({**environment, "PATH": str(tmp_path / "empty")}, "codex", "--port", 1)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: codex is not installed: npm install -g @openai/codex\n"


def test_without_a_server_the_error_says_how_to_start_one(
    environment: dict[str, str], tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text('[server]\nport = 1\n[model.a]\nkind = "text"\nsource = "a.gguf"\n')
    start = f"start one with `localinfra serve --config {models}`"
    for options, words in (
        (("--config", models), start), (("--port", 1), "start one with `localinfra serve`"),
    ):  # fmt: skip
        done = run(environment, "claude", *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: No server answers at http://")
        assert words in done.stderr


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("ecko", "Did you mean echo?"),
        ("vectors", "vectors is not a chat model"),
        ("absent", "The files of absent are missing"),
        ("damaged", "damaged"),
    ],
)
def test_a_model_that_can_not_answer_is_refused(
    server: EchoServer, environment: dict[str, str], model: str, words: str
) -> None:
    done = run(environment, "qwen", "--url", server.url, "--model", model)
    assert (done.returncode, done.stdout) == (1, "") and words in done.stderr
