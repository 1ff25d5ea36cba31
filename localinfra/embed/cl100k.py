"""OpenAI's cl100k_base token ids → text, offline. Clients that send ids mean this vocabulary."""

import functools
import warnings
from typing import Any

from localinfra.errors import InvalidRequest, UnsupportedParameter

NUM_TOKENS = 100_256  # without the special tokens, which follow


@functools.cache
def tokenizer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from how it opens its own file
        import bpe_openai

        return bpe_openai.get_encoding("cl100k_base")


def decode(ids: list[int], param: str) -> str:
    """Raises InvalidRequest for an invalid id, UnsupportedParameter if the vocabulary is not
    installed."""
    for token in ids:
        if not 0 <= token < NUM_TOKENS:
            raise InvalidRequest(
                f"{param} has {token}, which is not a cl100k_base token id. Token ids are read "
                "as OpenAI's; send texts instead (LangChain: check_embedding_ctx_length=False), or "
                'set token_ids = "model" for this model in models.toml.',
                param.partition("[")[0],
            )
    try:
        data: bytes = tokenizer().decode_bytes(ids)
    except ImportError:
        raise UnsupportedParameter(
            "Token ids need a package that is missing here: pip install bpe-openai, or send texts.",
            param.partition("[")[0],
        ) from None
    return data.decode("utf-8", "replace")  # clients may cut between bytes of a character
