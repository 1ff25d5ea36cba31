"""`localinfra launch`: starts a coding agent that uses a running server.

Sets everything by environment, arguments and a file in the cache: the agent's own configuration
stays as it is. The agent takes this process's place, so that its signals and its exit status are
its own.
"""

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import quote

import click
import msgspec

from localinfra.cli.cards import find_model, text_models
from localinfra.cli.client import Client, ServerUnreachable
from localinfra.cli.connect import answering, find_running
from localinfra.config import settings as config_file
from localinfra.config.settings import local_url
from localinfra.errors import ApiError
from localinfra.machine import cache_folder
from localinfra.models.entries import Price

# The first request of Claude Code and Qwen Code has about 20,000 tokens, of Codex 10,000.
MIN_CONTEXT_LENGTH = 32_768
TRUSTED = "NODE_EXTRA_CA_CERTS"  # of Node and Bun, which run most agents
MAX_ANSWER_LENGTH = 32_000  # tokens; agents keep so much of a context free


class LoadedCard(msgspec.Struct):
    id: str
    context_length: int  # tokens
    price: Price = Price()


class Served(msgspec.Struct, frozen=True):
    """What an agent must know."""

    url: str  # without /v1
    key: str  # never empty: agents refuse to start without one
    model: str
    context_length: int  # tokens
    price: Price

    @property
    def answer_length(self) -> int:
        """Tokens that the agent keeps free for an answer when it compacts a conversation."""
        return min(MAX_ANSWER_LENGTH, self.context_length // 4)


class Setup(NamedTuple):
    environment: Mapping[str, str]
    arguments: tuple[str, ...] = ()  # before the user's
    files: Mapping[str, object] = {}  # environment variable → content of the JSON file it names


class Agent(NamedTuple):
    install: str
    setup: Callable[[Served], Setup]


def claude(served: Served) -> Setup:
    """https://code.claude.com/docs/en/env-vars"""
    kinds = ("", "SMALL_FAST_", "DEFAULT_OPUS_", "DEFAULT_SONNET_", "DEFAULT_HAIKU_")
    window = str(served.context_length)
    return Setup(
        {
            "ANTHROPIC_BASE_URL": served.url,
            "ANTHROPIC_AUTH_TOKEN": served.key,
            "ANTHROPIC_API_KEY": "",  # the user's would go before the token
            **{f"ANTHROPIC_{kind}MODEL": served.model for kind in kinds},
            "CLAUDE_CODE_SUBAGENT_MODEL": served.model,
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": window,
            "CLAUDE_CODE_AUTO_COMPACT_WINDOW": window,  # for claude-..., and "Default" in /model
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(served.answer_length),
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
    )


def codex(served: Served) -> Setup:
    """https://developers.openai.com/codex/config-reference; `-c` takes TOML."""
    provider = (
        f'{{name = "localinfra", base_url = "{served.url}/v1", wire_api = "responses", '
        'env_key = "LOCALINFRA_API_KEY"}'
    )
    settings = (
        'model_provider="localinfra"',
        f"model_providers.localinfra={provider}",
        f"model_context_window={served.context_length}",
    )
    options = (word for setting in settings for word in ("-c", setting))
    return Setup({"LOCALINFRA_API_KEY": served.key}, (*options, "-m", served.model))


def opencode(served: Served) -> Setup:
    """https://opencode.ai/docs/config; the user's configuration is merged with this one."""
    limit = {"context": served.context_length, "output": served.answer_length}
    price = {"input": served.price.input, "output": served.price.output}
    config = {
        "model": f"localinfra/{served.model}",
        "small_model": f"localinfra/{served.model}",
        "provider": {
            "localinfra": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": f"{served.url}/v1", "apiKey": served.key},
                "models": {served.model: {"limit": limit, "cost": price}},
            }
        },
    }
    return Setup({"OPENCODE_CONFIG_CONTENT": msgspec.json.encode(config).decode()})


def qwen(served: Served) -> Setup:
    """https://qwenlm.github.io/qwen-code-docs; system settings go before the user's."""
    settings = {
        "security": {"auth": {"selectedType": "openai"}},
        "model": {
            "name": served.model,
            "generationConfig": {"contextWindowSize": served.context_length},
        },
    }
    environment = {
        "OPENAI_BASE_URL": f"{served.url}/v1",
        "OPENAI_API_KEY": served.key,
        "OPENAI_MODEL": served.model,
        # Else 8,000, and a longer answer is cut and computed once more from its beginning.
        "QWEN_CODE_MAX_OUTPUT_TOKENS": str(served.answer_length),
    }
    return Setup(environment, files={"QWEN_CODE_SYSTEM_SETTINGS_PATH": settings})


def aider(served: Served) -> Setup:
    """https://aider.chat/docs/config/adv-model-settings.html"""
    name = f"openai/{served.model}"
    details = {
        "max_tokens": served.answer_length,
        "max_input_tokens": served.context_length,
        "max_output_tokens": served.answer_length,
        "input_cost_per_token": served.price.input / 1e6,
        "output_cost_per_token": served.price.output / 1e6,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    environment = {
        "OPENAI_API_BASE": f"{served.url}/v1",
        "OPENAI_API_KEY": served.key,
        "AIDER_MODEL": name,
        "AIDER_WEAK_MODEL": name,
    }
    return Setup(environment, files={"AIDER_MODEL_METADATA_FILE": {name: details}})


AGENTS = {  # command → the agent
    "claude": Agent("npm install -g @anthropic-ai/claude-code", claude),
    "codex": Agent("npm install -g @openai/codex", codex),
    "opencode": Agent("npm install -g opencode-ai", opencode),
    "qwen": Agent("npm install -g @qwen-code/qwen-code", qwen),
    "aider": Agent("pipx install aider-chat", aider),
}


@click.command("launch")
@click.argument("agent", type=click.Choice(list(AGENTS)))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--model", help="The chat model; default: the first one that is ready.")
@click.option("--url", envvar="LOCALINFRA_URL", help="The server to use.")
@click.option("--port", type=click.IntRange(1, 65_535), help="The same, for one on this machine.")
@click.option("--key", envvar="LOCALINFRA_API_KEY", help="Its API key.")
@click.option("--config", type=click.Path(path_type=Path), help="Use the server of this file.")
def launch(
    agent: str,
    arguments: tuple[str, ...],
    model: str | None,
    url: str | None,
    port: int | None,
    key: str | None,
    config: Path | None,
) -> None:
    """Start a coding agent on a model of a running server.

    \b
      localinfra launch claude
      localinfra launch codex --model my-model -- exec "Explain this repository."

    ARGUMENTS after -- go to the agent. Its own configuration is not changed.
    """
    path = shutil.which(agent)
    if path is None:
        raise ApiError(f"{agent} is not installed: {AGENTS[agent].install}")
    client = at_port(port, key, config) if port else running(url, key, config)
    served = load(client, model)
    if served.context_length < MIN_CONTEXT_LENGTH:
        click.echo(
            f"warning: {served.model} has a context of {served.context_length} tokens, too few for "
            f"most agents: give it context_length = {2 * MIN_CONTEXT_LENGTH} in models.toml",
            err=True,
        )
    setup = AGENTS[agent].setup(served)
    if client.certificate:  # agents know it as an authority, beside the system's
        setup = setup._replace(environment={TRUSTED: client.certificate, **setup.environment})
    become(path, setup, arguments)


def running(url: str | None, key: str | None, config: Path | None) -> Client:
    """A client of the server that runs. Raises ApiError if none does."""
    if url is not None:
        return answering(url, key)
    settings = config_file.load(config)
    if client_found := find_running(settings.server, key):
        return client_found
    more = f" --config {settings.path}" if config else ""
    raise ServerUnreachable(
        f"No server answers at {local_url(settings.server)}: start one with "
        f"`localinfra serve{more}`, or give another address with --url or --port."
    )


def at_port(port: int, key: str | None, config: Path | None) -> Client:
    """A client of the server at a port of this machine, which speaks TLS if the settings say so.
    Raises ApiError if none answers."""
    server = config_file.load(config).server
    url = local_url(server, "127.0.0.1", port)
    return answering(url, key, server.tls_cert)


def load(client: Client, name: str | None) -> Served:
    """Waits until the model is loaded. Raises ApiError if it can't be."""
    model = (find_model(client, name) if name else text_models(client)[0]).id
    client.post("/v1/tokenize", {"model": model, "prompt": "Hi"}, msgspec.Raw)
    card = client.get(f"/v1/models/{quote(model, safe='')}", LoadedCard)
    return Served(client.url, client.key or "none", card.id, card.context_length, card.price)


def become(path: str, setup: Setup, arguments: tuple[str, ...]) -> NoReturn:
    """Replaces this process. Raises ApiError if that fails."""
    environment = {**os.environ, **setup.environment}
    for variable, content in setup.files.items():
        environment[variable] = str(written(Path(path).name, content))
    sys.stdout.flush()
    sys.stderr.flush()
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and the agent would inherit that
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(path, [path, *setup.arguments, *arguments], environment)
    except OSError as error:
        raise ApiError(f"{path} can't be started: {error.strerror}") from None


def written(name: str, content: object) -> Path:
    """A file in the cache, called by its content: agents that run at once may differ in it."""
    text = msgspec.json.format(msgspec.json.encode(content))
    digest = hashlib.sha256(text).hexdigest()[:12]
    path = cache_folder("launch") / f"{name}-{digest}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    return path
