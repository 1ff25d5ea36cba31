"""The chat as a person uses it, over models that repeat what they are told."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from echo import ECHO, EchoServer
from playwright.sync_api import Page, expect
from talking import OTHER, Open, begin, choose, finish, say, text_of
from waiting import wait_for

pytestmark = pytest.mark.browser


def test_an_answer_comes_with_its_figures(page: Page) -> None:
    answer = say(page, "Hello there.")
    expect(text_of(answer)).to_have_text("Hello there.")
    figures = answer.locator(".figures")
    for words in ("tok/s", "first token", "13 tokens", "$0.0000"):
        expect(figures).to_contain_text(words)
    expect(page.locator("#announcer")).to_contain_text("complete, 13 tokens")


def test_the_conversation_goes_on_with_what_was_said(page: Page) -> None:
    say(page, "one")
    answer = say(page, "two")
    expect(text_of(answer)).to_have_text("two")
    answer.get_by_label("The request as code").click()
    code = page.locator("dialog code")
    for words in ('"content": "one"', '"content": "two"', '"stream": true', "curl -N"):
        expect(code).to_contain_text(words)
    page.get_by_role("button", name="Python").click()
    expect(code).to_contain_text("client.chat.completions.create(")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_the_request_as_code_is_a_program_that_works(page: Page, tmp_path: Path) -> None:
    say(page, "it's \"quoted\" $HOME `x` \\\\ 'here'").get_by_label("The request as code").click()
    programs = {
        "curl": ["sh"],
        "Python": [sys.executable],
        "JavaScript": ["node", "--input-type=module"],
    }
    for name, command in programs.items():
        if shutil.which(command[0]) is None:
            continue
        page.get_by_role("button", name=name, exact=True).click()
        program = page.locator("dialog code").inner_text()
        done = subprocess.run(command, input=program, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        text = done.stdout
        if name != "Python":
            chunks = [
                json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")
            ]
            pieces = [
                choice["delta"].get("content") for each in chunks for choice in each["choices"]
            ]
            text = "".join(piece or "" for piece in pieces)
        assert text == "it's \"quoted\" $HOME `x` \\\\ 'here'", name


def test_the_system_prompt_stays_with_its_conversation(page: Page) -> None:
    page.get_by_label("System prompt").fill("Be brief.")
    say(page, "one")
    page.get_by_role("button", name="New chat").click()
    page.get_by_label("System prompt").fill("Be long.")
    say(page, "two")
    page.get_by_role("button", name="one").click()
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    say(page, "more").get_by_label("The request as code").click()
    expect(page.locator("dialog code")).to_contain_text('"content": "Be brief."')


def test_tools_that_are_no_json_are_refused_and_the_message_is_kept(page: Page) -> None:
    page.get_by_text("Tools", exact=True).click()
    page.get_by_label("Functions as JSON").fill("{oops")
    begin(page, "a message")
    expect(page.get_by_role("alert").first).to_contain_text("can't be read as JSON")
    expect(page.get_by_label("Message", exact=True)).to_have_value("a message")
    expect(page.locator(".turn")).to_have_count(0)


def test_a_text_file_becomes_part_of_the_message(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("Some ```code``` here.\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    with page.expect_file_chooser() as chooser:
        page.get_by_label("Add text files").click()
    chooser.value.set_files([tmp_path / "notes.md", tmp_path / "picture.png"])
    expect(page.get_by_role("alert")).to_contain_text("picture.png is no text")
    expect(page.get_by_label("Message", exact=True)).to_have_value(
        "\n\nnotes.md:\n````md\nSome ```code``` here.\n````\n"
    )


def test_a_file_can_be_dropped_anywhere_and_never_replaces_the_page(page: Page) -> None:
    drop = """pane => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(["some text"], "notes.txt"));
      const rest = { dataTransfer, bubbles: true, cancelable: true };
      return ["dragover", "drop"].map((kind) => pane.dispatchEvent(new DragEvent(kind, rest)));
    }"""
    assert page.locator(".welcome").evaluate(drop) == [False, False]  # prevented
    expect(page.get_by_label("Message", exact=True)).to_have_value(
        "\n\nnotes.txt:\n```txt\nsome text\n```\n"
    )
    page.keyboard.press("Alt+5")
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    assert page.locator("#stage").evaluate(drop) == [False, False]


def test_escape_stops_an_answer_and_frees_its_place(page: Page, server: EchoServer) -> None:
    choose(page, "slow")
    begin(page, "word " * 2000)
    expect(page.locator(".answer-text")).to_contain_text("word word word")
    page.keyboard.press("Escape")
    finish(page)
    expect(page.locator(".figures")).to_contain_text("stopped")
    model = server.runtime.loaded_text_models()["slow"]
    wait_for(lambda: not model.is_busy)


def test_an_answer_that_was_stopped_can_go_on(page: Page) -> None:
    page.get_by_label("Max tokens").fill("5")
    page.get_by_label("Token probabilities").check()
    answer = say(page, "0123456789")
    expect(text_of(answer).locator(".token")).to_have_text(list("01234"))
    expect(answer.locator(".figures")).to_contain_text("cut off")
    answer.get_by_label("Go on from here").click()
    expect(text_of(answer).locator(".token")).to_have_text(list("0123456789"))
    answer.get_by_label("Probabilities or text").click()
    expect(text_of(answer)).to_have_text("0123456789")


def test_editing_a_message_adds_a_branch_and_keeps_the_old_one(page: Page) -> None:
    say(page, "first")
    say(page, "more")
    page.locator(".turn.user").first.get_by_label("Edit and ask again").click()
    page.get_by_label("Edit the message").fill("second")
    page.get_by_role("button", name="Ask again", exact=True).first.click()
    finish(page)
    expect(page.locator(".turn")).to_have_count(2)
    expect(text_of(page.locator(".turn").last)).to_have_text("second")
    expect(page.locator(".branches").first).to_have_text("2/2")
    page.get_by_label("Previous version").first.click()
    expect(page.locator(".turn")).to_have_count(4)
    expect(text_of(page.locator(".turn").last)).to_have_text("more")


def test_asking_again_adds_a_version_of_the_answer(page: Page) -> None:
    answer = say(page, "again")
    answer.get_by_label("Ask again").click()
    finish(page)
    expect(page.locator(".turn.assistant .branches")).to_have_text("2/2")
    page.get_by_label("Previous version").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .branches")).to_have_text("1/2")
    expect(page.get_by_label("Previous version")).to_be_focused()


def test_an_edited_answer_is_what_the_conversation_goes_on_with(page: Page) -> None:
    answer = say(page, "red")
    answer.get_by_label("Edit the answer").click()
    page.get_by_label("Edit the message").fill("blue")
    page.get_by_role("button", name="Keep as a version").click()
    expect(text_of(page.locator(".turn.assistant"))).to_have_text("blue")
    say(page, "next").get_by_label("The request as code").click()
    expect(page.locator("dialog code")).to_contain_text('"content": "blue"')


def test_several_answers_stand_side_by_side_and_one_goes_on(page: Page) -> None:
    page.get_by_label("Answers").fill("3")
    begin(page, "said three times")
    finish(page)
    answers = page.locator(".answer")
    expect(page.locator(".answer-text")).to_have_text(["said three times"] * 3)
    expect(answers.nth(0)).to_have_class("answer picked")
    answers.nth(2).get_by_label("Edit the answer").click()
    page.get_by_label("Edit the message").fill("not chosen")
    page.keyboard.press("Escape")
    answers.nth(2).get_by_role("button", name="Go on with this one").click()
    expect(answers.nth(2)).to_have_class("answer picked")
    page.get_by_label("Answers").fill("1")
    say(page, "next")
    expect(page.locator(".turn")).to_have_count(4)
    page.reload()
    page.locator(".conversation").click()
    expect(answers.nth(2)).to_have_class("answer picked")


def test_two_models_answer_one_prompt(page: Page) -> None:
    page.get_by_label("Compare with a second model").click()
    choose(page, OTHER, "Second model")
    begin(page, "both of you")
    finish(page)
    expect(page.locator(".answer .model-name")).to_have_text([ECHO, OTHER])
    expect(page.locator(".answer-text")).to_have_text(["both of you", "both of you"])


def test_parameters_are_the_models_own_where_the_user_sets_none(
    open_page: Open, server: EchoServer
) -> None:
    page = open_page(server.url)
    choose(page, OTHER)
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.25")
    page.get_by_label("Top p").fill("0.5")
    page.get_by_label("System prompt").fill("Be brief.")
    answer = say(page, "x")
    answer.get_by_label("The request as code").click()
    code = page.locator("dialog code")
    for words in ('"temperature": 0.25', '"top_p": 0.5', '"content": "Be brief."'):
        expect(code).to_contain_text(words)


def test_a_parameter_out_of_range_becomes_the_nearest_that_is_allowed(page: Page) -> None:
    for label, given, taken in [
        ("Top k", "2.4", "2"), ("Answers", "99", "16"), ("Max tokens", "-3", "1"),
        ("Top p", "0.123", "0.123"), ("Temperature", "7", "2"), ("Seed", "", ""),
    ]:  # fmt: skip
        field = page.get_by_label(label, exact=True)
        field.fill(given)
        field.blur()
        expect(field).to_have_value(taken)


def test_reasoning_is_folded(page: Page) -> None:
    choose(page, "thinker")
    answer = say(page, "let me see</think>It is 4.")
    expect(text_of(answer)).to_have_text("It is 4.")
    fold = answer.locator("details.reasoning")
    expect(fold.locator("summary")).to_contain_text("Thought for")
    expect(fold.locator(".reasoning-text")).not_to_be_visible()
    fold.locator("summary").click()
    expect(fold.locator(".reasoning-text")).to_have_text("let me see")


def test_probabilities_are_a_heat_map_with_alternatives(page: Page) -> None:
    page.get_by_label("Token probabilities").check()
    answer = say(page, "abc")
    expect(answer.locator(".token")).to_have_text(["a", "b", "c"])
    answer.locator(".tokens").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(answer.locator(".alternative.taken code")).to_have_text("b")
    expect(answer.locator(".alternative")).to_have_count(5)
    expect(answer.locator(".alternative.taken .number")).to_contain_text("%")
    answer.get_by_label("Probabilities or text").click()
    expect(answer.locator(".prose")).to_have_text("abc")


def test_a_call_is_shown_and_its_result_goes_back(page: Page) -> None:
    page.get_by_text("Tools", exact=True).click()
    tool = {"name": "noon", "parameters": {"type": "object", "properties": {}}}
    page.get_by_label("Functions as JSON").fill(json.dumps(tool))
    page.get_by_label("Use", exact=True).select_option("required")
    answer = say(page, "What time is it?")
    expect(answer.locator(".call .turn-name")).to_have_text("noon")
    page.get_by_label("Use", exact=True).select_option("none")
    answer.get_by_label("Result of noon").fill("12:00")
    answer.get_by_role("button", name="Give result").click()
    expect(page.locator(".turn")).to_have_count(4)
    finish(page)
    expect(page.locator(".turn.tool .said")).to_have_text("12:00")


def test_an_error_is_told_in_the_servers_words(open_page: Open, server: EchoServer) -> None:
    page = open_page(server.url, refusals=True)
    choose(page, OTHER)
    answer = say(page, "too long " * 400)
    expect(answer.get_by_role("alert")).to_contain_text("maximum context length is 2048 tokens")


# The wheel's scrolling is animated: on a busy machine it may go on after the text has grown.
AT_REST = """pane => new Promise((done) => {
  let [top, frames] = [pane.scrollTop, 0];
  const look = () => {
    frames = pane.scrollTop === top ? frames + 1 : 0;
    top = pane.scrollTop;
    frames < 20 ? requestAnimationFrame(look) : done();
  };
  look();
})"""


def test_the_page_follows_an_answer_until_its_reader_looks_up(page: Page) -> None:
    choose(page, "slow")
    begin(page, "\n\n".join(f"Paragraph {number}." for number in range(60)))
    end = page.locator(".thread-scroll")
    left = "pane => pane.scrollHeight - pane.clientHeight - pane.scrollTop"
    expect(page.locator(".answer-text")).to_contain_text("Paragraph 20.")
    while end.evaluate(left) >= 60:
        page.wait_for_timeout(50)
    end.hover()
    page.mouse.wheel(0, -300)
    expect(page.locator(".answer-text")).to_contain_text("Paragraph 40.")
    assert end.evaluate(left) > 200
    end.evaluate(AT_REST)
    end.evaluate("pane => pane.scrollTop = pane.scrollHeight")
    finish(page)
    expect(page.get_by_label("Ask again", exact=True)).to_be_in_viewport()


def test_what_is_complete_is_not_drawn_again_while_more_comes(page: Page) -> None:
    """So that a long answer stays smooth, and what a reader has marked stays marked."""
    choose(page, "slow")
    begin(page, "The first paragraph.\n\n- a\n- b\n\n" + "and so on " * 100)
    expect(page.locator(".prose p").nth(1)).to_contain_text("and so on and")
    blocks = page.locator(".prose > *")
    blocks.nth(0).evaluate("block => block.marked = true")
    blocks.nth(1).evaluate("block => block.marked = true")
    finish(page)
    assert blocks.evaluate_all("all => all.map(block => block.marked === true)") == [
        True,
        True,
        False,
    ]
