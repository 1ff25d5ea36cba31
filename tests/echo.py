"""A text model in milliseconds, without weights: its tokens are bytes, and it says what it is told.

At temperature 0 it repeats the last message of the user, or the first line of a plain prompt. (To a
prompt without an end of line it says its first letter, again and again.) Above, noise mixes with
it. Everything but the computation is the server's own.
"""

import contextlib
import re
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from application import Application
from llguidance import LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray
from serving import trusting_tests

from localinfra.config import settings as config_file
from localinfra.costs import Ledger
from localinfra.engine.backend import Batch
from localinfra.engine.engine import Engine
from localinfra.engine.request import EngineSettings
from localinfra.errors import InvalidRequest
from localinfra.keys.holders import Holders
from localinfra.kinds import LoadedModel
from localinfra.models import catalog as catalog_file
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.models.seats import LoadPlan
from localinfra.picture_parts import PartSize, PicturePart
from localinfra.pictures import Pixels
from localinfra.runtime import Runtime
from localinfra.sounds.samples import Samples
from localinfra.text.eyes import Eyes
from localinfra.text.model import TextModel
from localinfra.text.templates import compile_templates

BOS, START, END, PREFIX, SUFFIX, MIDDLE = range(256, 262)
SPECIAL = {
    "<s>": BOS,
    "<|im_start|>": START,
    "<|im_end|>": END,
    "<|fim_prefix|>": PREFIX,
    "<|fim_suffix|>": SUFFIX,
    "<|fim_middle|>": MIDDLE,
}
NUM_VOCAB = 256 + len(SPECIAL)
ROW_WIDTH = 4  # of one that sees
LIKELY = 6.0  # logit of what it wants to say, beside noise of 1
UNLIKELY = -30.0

CHATML = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
THINKER = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.role == 'assistant' %}{{ message.content.split("</think>")[-1] }}{% else %}
{{- message.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<think>
{% endif %}{% endif %}"""

ECHO = "tests/echo"
SENSES = {"seer.gguf": ("see",), "listener.gguf": ("hear",), "omni.gguf": ("see", "hear")}
FILES = (
    "echo.gguf",
    "filler.gguf",
    "slow.gguf",
    "agent.gguf",
    "fragile.gguf",
    "gated.gguf",
    *SENSES,
)
SLOW_STEP_S = 0.005
CATALOGUE = f"""
[model."{ECHO}"]
kind = "text"
source = "echo.gguf"
aliases = ["echo"]
context_length = 2048
sequences = 8
default_max_tokens = 64
price = {{ input = 1.0, output = 2.0 }}

[model."thinker"] # its template opens the reasoning
kind = "text"
source = "echo.gguf"
context_length = 1024
sequences = 2
chat_template = '''{THINKER}'''

[model."filler"] # knows fill-in-the-middle
kind = "text"
source = "filler.gguf"
context_length = 256

[model."slow"]
kind = "text"
source = "slow.gguf"
context_length = 2048

[model."absent"]
kind = "text"
source = "hf:owner/repo/file.gguf"

[model."damaged"]
kind = "text"
source = "damaged.gguf"

[model."vectors"]
kind = "embedding"
source = "hf:owner/vectors"
"""


class Bytes:
    """A `text.vocabulary.Vocabulary` of the 256 bytes and a few control tokens."""

    num_vocab = NUM_VOCAB
    tokenizer_kind = "bytes"
    bos_text, eos_text = "<s>", "<|im_end|>"
    adds_bos = False
    special_tokens: Mapping[str, int] = SPECIAL
    control_tokens: Mapping[str, int] = SPECIAL
    grammar_tokens: Mapping[str, int] = SPECIAL
    longest_token = max(map(len, SPECIAL))

    def __init__(self, *, fills: bool = False):
        self.infill_tokens = (PREFIX, SUFFIX, MIDDLE) if fills else None

    def token_text(self, token: int) -> str:
        return self.token_bytes(token).decode("latin-1") or list(SPECIAL)[token - 256]

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def tokens(self, text: str, *, parse_special: bool, add_bos: bool) -> Iterator[list[int]]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("The text has a lone surrogate.") from None
        marks = f"({'|'.join(map(re.escape, SPECIAL))})" if parse_special else "$^"
        for part in re.split(marks, text):
            yield [SPECIAL[part]] if parse_special and part in SPECIAL else list(part.encode())

    def prepare_for(self, num_characters: int) -> None: ...

    def grammar_tokenizer(self) -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(ForGrammars()), n_vocab=NUM_VOCAB, eos_token=END)


class ForGrammars:
    """As llguidance asks for a tokenizer."""

    eos_token_id, bos_token_id = END, BOS
    tokens = (*(bytes([byte]) for byte in range(256)), *map(str.encode, SPECIAL))
    special_token_ids = tuple(SPECIAL.values())

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def next_token(tokens: list[int]) -> int:
    """What it says after these."""
    said, asked = "".join(chr(token) if token >= 0 else "*" for token in tokens), ""
    if chr(START) in said:
        for segment in said.split(chr(START)):
            role, _, text = segment.partition("\n")
            if role == "user":
                asked = text.partition(chr(END))[0]
        answer = text.removeprefix("<think>\n")
    else:
        asked, _, answer = said.removeprefix(chr(BOS)).partition("\n")
    return ord(asked[len(answer)]) if len(answer) < len(asked) else END


class EchoBackend:
    """An `engine.backend.Backend` that keeps the tokens of a cell, and of rows only what a test can
    see: no rounding. `FakeBackend` is the strict one."""

    num_slots = 64
    batch_size = 512
    max_output_rows = 512
    max_threads = 1
    shares_cells = True
    needs_states = False
    canonical_rows = canonical_decode_rows = 0
    is_canonical_alone = is_on_device = False
    idle_cells_slow_steps = False
    likely = LIKELY

    def __init__(self, context_length: int, num_sequences: int, step_s: float = 0.0):
        self.context_length = context_length
        self.num_sequences = num_sequences
        self.num_vocab = NUM_VOCAB
        self.row_width, self.has_grid_positions = 0, False  # it doesn't see
        self.num_cells = self.max_saved = self.max_rollback = context_length * 2
        self.step_s = step_s
        self._cells: defaultdict[int, dict[int, int]] = defaultdict(dict)  # slot → position → token
        self._rows: list[tuple[int, int]] = []  # of the last batch: slot and position

    def decode(self, batch: Batch) -> None:
        time.sleep(self.step_s)
        self._rows = list(zip(batch.slots, batch.positions, strict=True))
        for (slot, position), token in zip(self._rows, batch.tokens, strict=True):
            self._cells[slot][position] = token

    def wait(self) -> None: ...

    def candidates(self, row: int) -> None:
        """None: it has no device."""

    def logits(self, row: int) -> NDArray[np.float32]:
        slot, last = self._rows[row]
        history = [self._cells[slot][position] for position in range(last + 1)]
        seed = zlib.crc32(np.array(history, np.int32).tobytes())
        logits = np.full(NUM_VOCAB, UNLIKELY, np.float32)
        logits[32:127] = np.random.default_rng(seed).standard_normal(95, np.float32)
        logits[self.next_token(history)] = self.likely
        return logits

    def next_token(self, history: list[int]) -> int:
        return next_token(history)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        cells = self._cells[source]
        self._cells[target] |= {position: cells[position] for position in range(start, stop)}

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        self._cells[slot] = {
            position: token
            for position, token in self._cells[slot].items()
            if position < start or (stop is not None and position >= stop)
        }

    def save(self, slot: int) -> NDArray[np.uint8]:
        return np.array(list(self._cells[slot].items()), np.int32).view(np.uint8)

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        self._cells[slot] = {at: token for at, token in data.view(np.int32).reshape(-1, 2).tolist()}
        return True

    def save_state(self, slot: int) -> NDArray[np.uint8]:
        raise NotImplementedError

    def restore_state(self, slot: int, data: NDArray[np.uint8], position: int) -> bool:
        raise NotImplementedError

    def clear(self) -> None:
        self._cells.clear()

    def is_end(self, token: int) -> bool:
        return token == END

    def set_threads(self, num_threads: int) -> None: ...

    def canonical_size(self, num_rows: int) -> int:
        return num_rows

    def canonical_threads(self) -> int:
        return 1

    def stays_ordered(self, batch: Batch, slots: set[int]) -> bool:
        return True

    def rest(self) -> None: ...

    def accepts(self, data: NDArray[np.uint8], start: int, stop: int) -> bool:
        return True

    def close(self) -> None: ...


class EchoEncoder:
    """Eyes of an echo: a picture is a row for each 10 x 10 pixels, in brackets. In answers, a row
    is an asterisk. Ears hear a row for each tenth of a second."""

    is_causal = True
    longest_sound_s = 60.0

    def __init__(self, *, sees: bool = True, hears: bool = False) -> None:
        self.num_read = 0
        self.sees, self.sample_rate = sees, 16_000 if hears else 0

    def sizes(self, content: Pixels | Samples) -> list[PartSize]:
        if isinstance(content, Samples):
            count = max(1, round(10 * content.seconds))
        else:
            count = max(1, content.width * content.height // 100)
        return [PartSize(1, False), PartSize(count, True), PartSize(1, False)]

    def read(
        self,
        content: Pixels | Samples,
        check: Callable[[], None],
        has_company: Callable[[], bool],
    ) -> tuple[PicturePart, ...]:
        self.num_read += 1
        rows = np.ones((self.sizes(content)[1].num_tokens, ROW_WIDTH), np.float32)
        return PicturePart([ord("[")]), PicturePart(rows=rows), PicturePart([ord("]")])

    def close(self) -> None: ...


class EchoRuntime(Runtime):
    """Loads the text models whose files are those of an echo; others as ever."""

    backend_kind: type[EchoBackend] = EchoBackend

    def backend_of(self, file: str) -> type[EchoBackend]:
        return self.backend_kind

    def _load_kind(self, name: str, entry: ModelEntry, plan: LoadPlan) -> LoadedModel:
        path = entry.source.find()
        if not isinstance(entry, TextModelEntry) or path is None or path.name not in FILES:
            return super()._load_kind(name, entry, plan)
        vocabulary = Bytes(fills=path.name == "filler.gguf")
        templates = compile_templates(entry.chat_template or CHATML, None, vocabulary)
        assert not templates.errors
        step_s = SLOW_STEP_S if path.name == "slow.gguf" else 0.0
        kind = self.backend_of(path.name)
        backend = kind(entry.context_length or 4096, entry.sequences, step_s)
        max_waiting = self.settings.max_queue
        senses = SENSES.get(path.name, ()) if entry.vision else ()
        encoder = EchoEncoder(sees="see" in senses, hears="hear" in senses) if senses else None
        if encoder:
            backend.row_width = ROW_WIDTH
        return TextModel(
            name,
            entry,
            vocabulary,
            Engine(backend, EngineSettings(max_waiting=max_waiting), name=name),
            templates,
            max_waiting,
            share_prefixes=self.settings.share_prefixes,
            max_request_tokens=self.settings.max_request_tokens,
            eyes=Eyes(name, encoder, max_waiting) if encoder else None,
        )


class EchoServer(Application):
    """Of a catalogue whose text models are echoes."""

    main_model = ECHO
    runtime_kind = EchoRuntime

    def __init__(
        self,
        folder: Path,
        catalogue: str = CATALOGUE,
        ledger: Ledger | None = None,
        holders: Holders | None = None,
    ):
        for name in (*FILES, "damaged.gguf"):
            (folder / name).write_bytes(b"GGUF" + bytes(100))
        (folder / "models.toml").write_text(catalogue)
        config = config_file.load(folder / "models.toml")
        super().__init__(
            self.runtime_kind(config.server, catalog_file.load(config)), ledger, holders
        )
        verify = trusting_tests() if config.server.tls_cert else True
        self.client = httpx2.Client(base_url=self.url, timeout=600, verify=verify)
        self._slow_steps = 0  # of answers that were cut short

    def close(self) -> None:
        self.client.close()
        super().close()

    @contextlib.contextmanager
    def cut_short(self, max_tokens: int) -> Iterator[None]:
        """Within, an answer of the slow model is left; its place is free long before its end."""
        yield
        model = self.runtime.loaded_text_models()["slow"]
        while model.is_busy:
            time.sleep(0.005)
        assert model.stats.num_steps - self._slow_steps < max_tokens
        self._slow_steps = model.stats.num_steps

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return self.client.post(path, json=body, **options)
