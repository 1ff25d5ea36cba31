"""A model's own layers for multi-token prediction (MTP) as a drafter.

From the hidden state after a token and the next token they predict the one after that, and further
ones from hidden states of their own (DeepSeek-V3, arXiv 2412.19437, section 2.2). So the model's
context keeps its last hidden states, and a second context with the same weights reads them.
"""

import ctypes

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.footprint import CPU, NO_MEMORY, Footprint, total
from localinfra.llama.context import LlamaContext
from localinfra.llama.hidden import HiddenStates, hidden_bytes, rows_by_slot
from localinfra.llama.library import llama_cpp, llama_cpp_ext
from localinfra.llama.model import Model
from localinfra.llama.settings import ContextSettings, Rounding

# As for logits, a declaration that returns an address.
_get_rows = ctypes.cast(llama_cpp_ext.llama_get_embeddings_nextn, ctypes.c_void_p).value or 0
get_rows_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_get_rows)


class HiddenContext(LlamaContext):
    """A model's context that keeps hidden states of the slots that are decoded."""

    def _make_batch(self) -> None:
        super()._make_batch()
        width = llama_cpp.llama_model_n_embd_out(self._model.pointer)
        self.hidden = HiddenStates(self.num_sequences, width)
        rows = Footprint({CPU: hidden_bytes(self.num_sequences, width)})
        self.footprint = total((self.footprint, rows))
        llama_cpp_ext.llama_set_embeddings_nextn(self._pointer, True, False)

    def decode(self, batch: Batch) -> None:
        super().decode(batch)
        if not batch.picture:  # nobody drafts after pictures
            self.hidden.put(batch, hidden_rows(self._pointer, len(batch), self.hidden.width))

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        super().drop(slot, start, stop)
        if stop is None:  # else other cells of the same tokens take their place
            self.hidden.drop(slot, start)

    def clear(self) -> None:
        super().clear()
        self.hidden.clear()


class MtpLayers(Model):
    """The MTP layers of a loaded model, which they keep alive. They have full attention, whatever
    the others have."""

    def __init__(self, whole: Model):
        vars(self).update(vars(whole))
        self._whole = whole
        self.footprint = NO_MEMORY  # counted with the whole
        self.has_attention = self.has_known_cells = True
        self.has_state = self.is_saved_whole = self.has_chunks = False
        self.sliding_window = 0

    def new_context(self, params: llama_cpp.llama_context_params) -> tuple[object, Footprint]:
        params.ctx_type = llama_cpp.LLAMA_CONTEXT_TYPE_MTP
        return super().new_context(params)


class MtpContext(LlamaContext):
    """Drafts for a `HiddenContext`."""

    rereads_guesses = True

    def __init__(self, model: Model, verifier: HiddenContext, settings: ContextSettings):
        self._hidden = verifier.hidden
        super().__init__(MtpLayers(model), settings)

    def first_readable(self, slot: int) -> int | None:
        return self._hidden.first_readable(slot)

    def _make_batch(self) -> None:
        super()._make_batch()
        width = self._hidden.width
        self._inputs = np.zeros((self.batch_size, width), np.float32)
        self._batch.embd = self._inputs.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self._own = np.zeros((self.num_sequences, width), np.float32)  # after each slot's last row
        # Of all rows: of output rows only, llama.cpp would give the first ones in their place.
        llama_cpp_ext.llama_set_embeddings_nextn(self._pointer, True, False)

    def _probe(self, known: Rounding | None) -> None:
        """Drafts change no text, so their bits don't matter."""

    def decode(self, batch: Batch) -> None:
        for slot, part in rows_by_slot(batch):
            source, begin = batch.origins[slot]
            count = part.stop - part.start
            known = self._hidden.before(source, begin + batch.positions[part.start], count)
            assert known is not None or count == 1, "only a guess has no token before it"
            self._inputs[part] = self._own[slot] if known is None else known
        super().decode(batch)
        rows = hidden_rows(self._pointer, len(batch), self._hidden.width)
        for slot, part in rows_by_slot(batch):
            self._own[slot] = rows[part.stop - 1]


def hidden_rows(context: object, num_rows: int, width: int) -> NDArray[np.float32]:
    """A copy of the hidden states [num_rows, width] of all tokens of the last batch."""
    size = num_rows * width * np.dtype(np.float32).itemsize
    data = ctypes.string_at(get_rows_address(context), size)
    return np.frombuffer(data, np.float32).reshape(num_rows, width)
