"""Token bytes → text, holding back a character until its last byte is there."""

import codecs
from collections.abc import Callable


class Detokenizer:
    """Incremental: the concatenation of what `push` and `flush` return is the whole text.

    Bytes that can never become UTF-8 appear as U+FFFD.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]):
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._token_bytes(token))

    def flush(self) -> str:
        """What an unfinished character leaves behind."""
        return self._decoder.decode(b"", True)
