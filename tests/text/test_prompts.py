"""Prompts that go on from earlier ones."""

import pytest
from echo import BOS, CHATML, START, Bytes

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
