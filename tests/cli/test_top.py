"""`localinfra top`: what two readings say, on paper and on a screen."""

from typing import Any

import pytest
from children import Terminal
from click.testing import CliRunner, Result

from localinfra.cli.main import main
from localinfra.cli.readings import Change, Reading, RequestRow
from localinfra.cli.top import view

NAME = "owner/a-model-with-a-long-name"
EARLIER = f"""
localinfra_model_loaded{{kind="text",model="{NAME}"}} 1.0
localinfra_model_loaded{{kind="text",model="absent"}} 0.0
localinfra_model_memory_bytes{{device="cpu",model="{NAME}"}} 3.2e+08
localinfra_memory_budget_bytes{{device="cpu"}} 8e+09
localinfra_sequences_running{{model="{NAME}"}} 3.0
localinfra_sequences_waiting{{model="{NAME}"}} 2.0
localinfra_kv_cells_used{{model="{NAME}"}} 41.0
localinfra_kv_cells{{model="{NAME}"}} 100.0
localinfra_generated_tokens_total{{model="{NAME}"}} 1000.0
localinfra_prompt_tokens_total{{model="{NAME}"}} 500.0
localinfra_steps_total{{model="{NAME}"}} 10.0
localinfra_step_seconds_total{{model="{NAME}"}} 1.0
localinfra_step_tokens_total{{model="{NAME}"}} 10.0
localinfra_requests_total{{model="",route="/metrics",status="2xx"}} 1.0
process_resident_memory_bytes 1.2e+09
"""
LATER = f"""
localinfra_generated_tokens_total{{model="{NAME}"}} 1084.0
localinfra_prompt_tokens_total{{model="{NAME}"}} 700.0
localinfra_cached_prompt_tokens_total{{model="{NAME}"}} 50.0
localinfra_steps_total{{model="{NAME}"}} 38.0
localinfra_step_seconds_total{{model="{NAME}"}} 1.588
localinfra_step_tokens_total{{model="{NAME}"}} 178.0
localinfra_drafted_tokens_total{{model="{NAME}"}} 8.0
localinfra_accepted_draft_tokens_total{{model="{NAME}"}} 6.0
localinfra_requests_total{{model="",route="/metrics",status="2xx"}} 2.0
localinfra_requests_total{{model="",route="",status="4xx"}} 1.0
localinfra_requests_total{{model="{NAME}",route="/v1/chat/completions",status="2xx"}} 1.0
"""


def merged(earlier: str, later: str) -> str:
    """The later values of all samples."""
    samples = dict(line.rsplit(" ", 1) for line in (earlier + later).splitlines() if line)
    return "".join(f"{name} {value}\n" for name, value in samples.items())


ALL = merged(EARLIER, LATER)


def change(
    before: str = EARLIER,
    now: str = ALL,
    ran: list[RequestRow] | None = None,
    runs: list[RequestRow] | None = None,
) -> Change:
    """Over two seconds."""
    return Change(Reading(before, ran, 10.0), Reading(now, runs, 12.0))


def test_a_view_has_what_happened_since_the_last_one() -> None:
    title, summary, memory, _, header, model = view("http://here", change())
    assert title == "localinfra at http://here"
    assert summary == (
        "42.0 tokens/s out   100 in   3 running   2 waiting   0.5 requests/s   1 failed"
    )
    assert memory == "models 320 MB of 8.0 GB cpu   process 1.2 GB   CPU 0%"
    assert dict(zip(header.split(), model.replace("320 MB cpu", "-").split(), strict=True)) == {
        "MODEL": NAME,
        "RUN": "3",
        "WAIT": "2",
        "OUT/S": "42.0",
        "IN/S": "100",
        "CACHED": "25%",
        "KV": "41%",
        "BATCH": "6.0",
        "MS/STEP": "21.0",
        "MEMORY": "-",
        "DRAFTS": "75%",
    }


def test_a_running_request_has_a_row_with_its_speed() -> None:
    row = RequestRow("id-7", "/v1/chat/completions", 3.2, NAME, 100, 20)
    later = RequestRow("id-7", "/v1/chat/completions", 5.2, NAME, 100, 60)
    new = RequestRow("id-8\x1b[2J", "/v1/messages", 0.1)
    *_, first, second = view("", change(ran=[row], runs=[later, new]))
    assert first.split() == ["id-7", "/v1/chat/completions", "5", "s", "100", "60", "20.0", NAME]
    assert second.split() == ["id-8\\x1b[2J", "/v1/messages", "0", "s", "0", "0", "-", "-"]


def test_counters_may_begin_anew_with_their_model() -> None:
    assert change(ALL, EARLIER).grown("generated_tokens_total") == 1000


def test_the_first_view_knows_no_speed() -> None:
    first = Reading(EARLIER, None, 10.0)
    _, summary, *_, model = view("", Change(first, first))
    assert summary.startswith("- tokens/s out   - in   3 running")
    assert model.split()[3:6] == ["-", "-", "-"]


def test_a_models_name_is_cut_where_the_screen_is_narrow() -> None:
    *_, model = view("", change(), columns=95)
    assert len(model) <= 95 and model.startswith("..") and "-long-name " in model


def test_numbers_that_are_none_are_left_out() -> None:
    odd = EARLIER.replace("3.2e+08", "NaN").replace("8e+09", "+Inf")
    _, _, memory, *_, model = view("", change(odd, odd))
    assert memory.startswith("process") and model.split()[-2:] == ["-", "-"]


def test_without_a_model_in_memory_it_says_what_loads_one() -> None:
    absent = 'localinfra_model_loaded{kind="text",model="absent"} 0.0\n'
    assert view("", change(absent, absent))[-1].startswith("No model is in memory")


def called(stub: Any, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["top", "--interval", "0.2", *arguments, "--url", stub.url])


def test_elsewhere_than_in_a_terminal_it_is_printed_once_or_as_often_as_asked(stub: Any) -> None:
    stub.cards["/metrics"] = EARLIER.encode()
    once = called(stub)
    assert once.exit_code == 0 and once.stdout.isascii() and "\x1b" not in once.stdout
    assert once.stdout.count("MODEL") == 1
    assert called(stub, "--times", "3").stdout.count("MODEL") == 3


def test_requests_are_shown_where_the_server_lists_them(stub: Any) -> None:
    stub.cards["/metrics"] = EARLIER.encode()
    stub.cards["/v1/requests"] = (
        b'{"data":[{"id":"id-7","route":"/v1/messages","running_s":3.1,"model":null,"key":"none"}]}'
    )
    assert "id-7     /v1/messages" in called(stub).stdout


@pytest.mark.parametrize("text", [b"<html>hello</html>", b"a{ 1", b"\xff\x00"])
def test_another_programs_metrics_are_an_error(stub: Any, text: bytes) -> None:
    stub.cards["/metrics"] = text
    done = called(stub)
    assert done.exit_code == 1 and "not a localinfra server" in done.output


def test_without_a_server_it_says_how_to_start_one() -> None:
    done = CliRunner().invoke(main, ["top", "--url", "http://127.0.0.1:1"])
    assert done.exit_code == 1 and "localinfra serve" in done.output


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_on_a_screen_it_goes_on_until_q_or_ctrl_c(stub: Any, key: str) -> None:
    stub.cards["/metrics"] = EARLIER.encode()
    with Terminal("top", "--interval", "0.2", "--url", stub.url, TERM="xterm") as terminal:
        terminal.until(r"\x1b\[\?1049h")
        for _ in range(3):
            terminal.until("MODEL")
        del stub.cards["/metrics"]
        terminal.until("q leaves")
        stub.cards["/metrics"] = EARLIER.encode()
        terminal.until("MODEL")
        terminal.type(key)
        assert terminal.exit_code() == 0
    assert terminal.shown.endswith("\x1b[?25h\x1b[?1049l")
