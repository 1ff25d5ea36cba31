"""A writer that has no idea what it writes, held by a grammar over a real vocabulary.

Random logits reach every corner of a grammar that a model would avoid, thousands of tokens a
second; `test_structured.py` has the model.
"""

from typing import Any

import numpy as np

from localinfra.chat.answer import Answer, AnswerFormat, grammar_of
from localinfra.chat.messages import Json
from localinfra.engine.grammar.compiler import GrammarCompiler
from localinfra.engine.request import SamplingParams
from localinfra.engine.sampling import Sampler
from localinfra.llama.model import Model

RECORD: dict[str, Json] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
        "n": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["name", "tags", "n"],
}

MAX_TOKENS = 3000


class Writer:
    """Writes texts that follow grammars, at temperature 2 over random logits. Tokens that close
    something are likelier, or it would hardly ever end."""

    def __init__(self, model: Model):
        self.model = model
        self.compiler = GrammarCompiler(model.grammar_tokenizer)
        self._bytes = [model.token_bytes(token) for token in range(model.num_vocab)]
        self._bonus = np.array(
            [12.0 * (text[:1] in (b'"', b"}", b"]", b"<")) for text in self._bytes], np.float32
        )
        self._ends = [token for token in range(model.num_vocab) if model.is_end(token)]
        self._bonus[self._ends] = 14

    def write(self, source: str, seed: int, start: str = "") -> str | None:
        """None where it found no end."""
        constraint = self.compiler.compile(source, "test").follow()
        rng = np.random.default_rng(seed)
        sampler = Sampler(SamplingParams(temperature=2, seed=seed), 0, [1])
        written = b""
        for token in self.model.tokenize(start, parse_special=True, add_bos=False):
            assert constraint.allows(token), (start, written)
            constraint.accept(token)
            written += self.spelled(token)
        for _ in range(MAX_TOKENS):
            if constraint.is_complete:
                return written.decode()
            row = rng.normal(0, 3, len(self._bytes)).astype(np.float32) + self._bonus
            token = sampler.sample(row, constraint)
            constraint.accept(token)
            if token in self._ends:
                return written.decode()
            written += self.spelled(token)
            for token in constraint.forced():
                assert constraint.allows(token)
                constraint.accept(token)
                if token in self._ends:
                    return written.decode()
                written += self.spelled(token)
        return None

    def spelled(self, token: int) -> bytes:
        return self._bytes[token] or self.model.token_text(token).encode()

    def json(self, schema: Any, seed: int) -> Any:
        source = grammar_of(Answer(AnswerFormat("json", "s", schema)), None, {}, False)
        assert source
        return self.write(source.text, seed)
