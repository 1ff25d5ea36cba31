"""What fails once, and what fails for good."""

import pytest

from localinfra.engine.backend import DeviceFailed
from localinfra.llama.failures import decode_failure


@pytest.mark.parametrize(
    ("code", "is_offloaded", "is_lost"),
    [(-3, True, True), (-3, False, False), (-2, True, False), (1, True, False)],
)
def test_only_a_gpu_that_computes_no_more_is_given_up(
    code: int, is_offloaded: bool, is_lost: bool
) -> None:
    failure = decode_failure(code, is_offloaded=is_offloaded)
    assert isinstance(failure, DeviceFailed) is is_lost
