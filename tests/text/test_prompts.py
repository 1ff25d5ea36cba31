"""Prompts that go on from earlier ones."""

from collections.abc import Mapping

import pytest
from echo import BOS, CHATML, START, Bytes

from localinfra.chat.formats.generic import GENERIC
from localinfra.errors import ContextLengthExceeded, InvalidRequest
from localinfra.text.prompts import Prompts
from localinfra.text.templates import compile_templates


class Begun(Bytes):
    adds_bos = True


@pytest.mark.parametrize(("vocabulary", "is_kept"), [(Bytes(), True), (Begun(), False)])
def test_a_prompt_that_goes_on_has_no_second_bos(vocabulary: Bytes, is_kept: bool) -> None:
    prompts = Prompts("m", vocabulary, compile_templates(CHATML, None, vocabulary), 8, 1)
    assert prompts.after([BOS, 1, 2], [START, 3]) == [BOS, 1, 2, START, 3]
    assert prompts.after([BOS, 1, 2], [BOS, 3]) == [BOS, 1, 2, *[BOS] * is_kept, 3]
    with pytest.raises(InvalidRequest, match="Token id 999 at position 1"):
        prompts.after([BOS, 999], [3])
    with pytest.raises(ContextLengthExceeded):
        prompts.after([1] * 9, [3])
    prompts.close()


class Listed(Bytes):
    """Counts how often its special tokens are looked at: a file may have any number of them."""

    num_looks = 0

    @property
    def special_tokens(self) -> Mapping[str, int]:  # type: ignore[override]
        self.num_looks += 1
        return {GENERIC.trigger: 300, "<other>": 301}


def test_tokens_of_the_answers_form_are_found_before_requests_come() -> None:
    vocabulary = Listed()
    prompts = Prompts("m", vocabulary, compile_templates(CHATML, None, vocabulary), 8, 1)
    num_looks = vocabulary.num_looks
    assert prompts.format_tokens == {300} and vocabulary.num_looks == num_looks
    prompts.close()
