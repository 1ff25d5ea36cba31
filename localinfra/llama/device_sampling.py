"""The best logits of each row of a step, chosen where they are computed, so that whole rows need
not be copied to main memory: 16 MB a step for 32 rows of 128k tokens.

llama.cpp lets a sampler add nodes to the graph (`llama_set_sampler`). Its own ones don't do here:

- Attaching one reserves all graphs again, which takes as long as many steps, and its settings and
  seed are fixed when it is made. So there would be one for each request.
- They work on one row at a time, with several kernels each, and send back what they were given: a
  greedy one alone copies the whole row too (`llm_graph_context::build_sampling`).
- If a single row of a step has none, all rows are copied (`needs_raw_logits`).

So each slot has a sampler that stays, of callbacks in this file. In every graph, one of them adds
nodes for all rows: the best NUM_BEST of each, with their probabilities among the whole
vocabulary. The others add none. From these our own sampler draws (`engine/candidates.py`). Where
they don't decide a row, it is copied by itself: the graph keeps all of them until the next step.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.engine.candidates import SUM_ERROR, Candidates
from localinfra.engine.draws import NUM_BEST
from localinfra.footprint import Footprint
from localinfra.llama.library import ggml, llama_cpp
from localinfra.llama.model import Model, NoContext
from localinfra.llama.settings import ContextSettings

MIN_CANDIDATES = 8  # with fewer, nearly all rows would be copied

POINTER, SIZE, INT64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
_top_k = ggml("ggml_top_k", POINTER, POINTER, POINTER, ctypes.c_int)
_soft_max = ggml("ggml_soft_max", POINTER, POINTER, POINTER)
_get_rows = ggml("ggml_get_rows", POINTER, POINTER, POINTER, POINTER)
_reshape = ggml("ggml_reshape_3d", POINTER, POINTER, POINTER, INT64, INT64, INT64)
_num_rows = ggml("ggml_nrows", INT64, POINTER)
_num_elements = ggml("ggml_nelements", INT64, POINTER)
_tensor_of = ggml("ggml_graph_get_tensor", POINTER, POINTER, ctypes.c_char_p)
_read = ggml("ggml_backend_tensor_get", None, POINTER, POINTER, SIZE, SIZE)
_device_of = ggml("ggml_backend_buft_get_device", POINTER, POINTER)
_supports = ggml("ggml_backend_dev_supports_op", ctypes.c_bool, POINTER, POINTER)

LOGITS = b"result_output"  # llama.cpp's name of the tensor of all logits


def _address_of(name: str) -> Any:
    """A getter of sampled values. Its own declaration creates a pointer object per call."""
    pointer = ctypes.cast(getattr(llama_cpp, name), POINTER).value or 0
    return ctypes.CFUNCTYPE(POINTER, POINTER, ctypes.c_int32)(pointer)


_logits_of = _address_of("llama_get_sampled_logits_ith")
_probabilities_of = _address_of("llama_get_sampled_probs_ith")
_ids_of = _address_of("llama_get_sampled_candidates_ith")
KINDS = (ctypes.c_float, ctypes.c_float, ctypes.c_int32)  # of their values


class DeviceSampling:
    """Samplers of a context's slots. Call `begin` before a step and `end` after it.

    One thread at a time; llama.cpp calls into it while it makes the context, and during steps."""

    def __init__(self, num_slots: int, num_vocab: int, max_rows: int):
        """One for each slot below `num_slots`. `max_rows`: with logits, of a step."""
        self._num_vocab = num_vocab
        # llama.cpp has room for a row of each, in which all rows are put here.
        self.num_candidates = min(NUM_BEST, num_vocab // max_rows)
        self.is_supported = True
        self._context: Any = None
        self._device: int | None = None
        self._is_probing = False  # llama.cpp builds a graph only to count its nodes
        self._slot: int | None = 0  # whose sampler adds the nodes of all rows; of a reservation too
        self._is_built = False
        self._rows: int | None = None  # the tensor of all logits in the last graph
        self._count = 0  # rows of the last step
        self._ids = np.zeros((0, 0), np.int32)
        self._logits = self._probabilities = np.zeros((0, 0), np.float32)
        self._whole = np.zeros((0, num_vocab), np.float32)
        self._addresses: tuple[int, ...] = ()
        # Both must outlive the chains. The first slot's sampler comes first in every graph.
        self._first_callbacks = callbacks(self._init, self._apply, self._reset)
        self._callbacks = callbacks(self._init, self._apply)
        self._chains = [self._chain(slot) for slot in range(num_slots)]
        self._configs = (llama_cpp.llama_sampler_seq_config * num_slots)(
            *((slot, ctypes.cast(chain, POINTER)) for slot, chain in enumerate(self._chains))
        )

    def _chain(self, slot: int) -> Any:
        own = ctypes.c_void_p(slot + 1)  # its own data; 0 would be none
        table = self._callbacks if slot else self._first_callbacks
        sampler = llama_cpp.llama_sampler_init(ctypes.byref(table), own)
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        llama_cpp.llama_sampler_chain_add(chain, sampler)
        return chain

    def add_to(self, params: Any) -> None:
        """To the llama_context_params that a context is made with."""
        params.n_outputs_max_per_seq = params.n_outputs_max  # 1 by default
        params.samplers = self._configs
        params.n_samplers = len(self._configs)

    def attached(self, context: Any) -> None:
        """The context was made."""
        self._context = context

    def detach(self) -> None:
        """Lets llama.cpp copy all rows again, from the next step on."""
        for slot in range(len(self._chains)):
            llama_cpp.llama_set_sampler(self._context, slot, None)
        self.free()

    def free(self) -> None:
        """To be called once the context is freed, or was not made."""
        for chain in self._chains:
            llama_cpp.llama_sampler_free(chain)
        self._chains = []

    # llama.cpp calls these. An exception would be lost: the step then has no candidates.

    def _init(self, sampler: Any, buffer_type: int, max_rows: int) -> bool:
        self._device = _device_of(buffer_type)
        self._is_probing = True
        return True

    def _reset(self, sampler: Any) -> None:
        self._is_built = False  # another graph is built

    def _apply(self, sampler: Any, memory: int, graph: int, data: Any) -> None:
        """Adds nodes, or none: without a result, nothing is copied."""
        result = data.contents
        row = result.logits
        result.logits = result.probs = result.sampled = result.candidates = None
        if self._is_probing:
            self._is_probing = False
            nodes = self._nodes(memory, row, 1)
            if self._device:
                self.is_supported &= all(_supports(self._device, node) for node in nodes)
        elif sampler.contents.ctx == (self._slot or 0) + 1 and not self._is_built:
            self._is_built = True
            self._rows = rows = _tensor_of(graph, LOGITS)
            if rows is None or self._slot is None:
                return
            nodes = self._nodes(memory, rows, _num_rows(rows))
        else:
            return
        result.candidates, result.logits, result.probs = nodes

    def _nodes(self, memory: int, rows: int, num_rows: int) -> tuple[int, int, int]:
        """Of logits [num_rows, num_vocab]: tensors [num_rows, num_candidates] of ids, their logits
        and their probabilities."""
        size = _num_elements(rows) // num_rows
        best = _top_k(memory, rows, self.num_candidates)
        probabilities = _soft_max(memory, rows)
        chosen = (
            _get_rows(memory, _reshape(memory, values, 1, size, num_rows), best)
            for values in (rows, probabilities)
        )
        return (best, *chosen)

    # The engine's thread again.

    def begin(self, batch: Batch, num_slots: int) -> None:
        """The next step is this batch; its slots below `num_slots` have samplers."""
        first = batch.slots[batch.output_rows[0]] if batch.output_rows else num_slots
        self._slot = first if first < num_slots else None
        self._count = 0

    def end(self, batch: Batch) -> bool:
        """The step was computed. Returns False if it should have candidates, and has none."""
        if self._slot is None:
            return True
        first_row, num_rows = batch.output_rows[0], len(batch.output_rows)
        size = num_rows * self.num_candidates
        if self._rows is None or _num_elements(self._rows) != num_rows * self._num_vocab:
            return False
        if llama_cpp.llama_get_sampled_logits_count_ith(self._context, first_row) != size:
            return False
        self._count = num_rows
        addresses = tuple(
            get(self._context, first_row) for get in (_logits_of, _probabilities_of, _ids_of)
        )
        if addresses != self._addresses or size > self._ids.size:
            self._logits, self._probabilities, self._ids = (
                array_at(address, size, kind).reshape(-1, self.num_candidates)
                for address, kind in zip(addresses, KINDS, strict=True)
            )
            self._addresses = addresses
        return True

    @property
    def has_rows(self) -> bool:
        """Whether the last step had rows of slots with samplers: then all of its rows are here."""
        return self._count > 0

    def candidates(self, index: int) -> Candidates:
        """Of the row with logits number `index`. Views, valid until the next step."""
        assert index < self._count
        logits, best = self._logits[index], int(self._logits[index].argmax())
        share = float(self._probabilities[index, best])
        return Candidates(self._ids[index], logits, 1 / share if share else np.inf, self._num_vocab)

    def row(self, index: int) -> NDArray[np.float32]:
        """All logits of this row, copied now. A view, valid until the next step."""
        assert index < self._count
        if index >= len(self._whole):
            self._whole = np.zeros((index + 1, self._num_vocab), np.float32)
        row: NDArray[np.float32] = self._whole[index]
        _read(self._rows, row.ctypes.data, index * row.nbytes, row.nbytes)
        return row


def callbacks(init: Any, apply: Any, reset: Any = None) -> Any:
    """llama_sampler_i, of functions with these roles there."""
    kinds = dict(llama_cpp.llama_sampler_i._fields_)
    table = llama_cpp.llama_sampler_i(
        backend_init=kinds["backend_init"](init), backend_apply=kinds["backend_apply"](apply)
    )
    if reset:
        table.backend_reset = kinds["backend_reset"](reset)
    return table


def array_at(address: int, size: int, kind: Any) -> NDArray[Any]:
    """A view of so many numbers of a ctypes type."""
    return np.frombuffer(memoryview((kind * size).from_address(address)), np.dtype(kind))


def agrees(sampling: DeviceSampling, rows: NDArray[np.float32]) -> bool:
    """Whether it gives these rows [num_rows, num_vocab] and the best of each: a check of all that
    is taken from llama.cpp's code rather than from its interface."""
    if not (sampling.is_supported and sampling.has_rows):
        return False
    for index, row in enumerate(rows):
        found = sampling.candidates(index)
        total = float(np.exp(row.astype(np.float64) - row.max()).sum())
        if not (
            np.array_equal(sampling.row(index), row)
            and np.array_equal(row[found.ids], found.logits)
            and np.array_equal(np.sort(found.logits), np.sort(row)[-len(found.ids) :])
            and len(np.unique(found.ids)) == len(found.ids)
            and abs(found.total / total - 1) < SUM_ERROR
        ):
            return False
    return True


def sampling_for(model: Model, settings: ContextSettings, max_rows: int) -> DeviceSampling | None:
    """For a new context of the model whose steps have at most so many rows with logits; None where
    it is not wanted, or would not help."""
    is_wanted = settings.device_sampling
    if is_wanted is None:
        is_wanted = model.has_output_on_device
    # A step of several sequences with states has several graphs, and the last one's rows stay.
    if not is_wanted or model.has_state or model.num_vocab < MIN_CANDIDATES * max_rows:
        return None
    return DeviceSampling(settings.num_sequences, model.num_vocab, max_rows)


def new_context(
    model: Model, params: Any, sampling: DeviceSampling | None
) -> tuple[Any, Footprint]:
    """As `Model.new_context`, with the samplers. Raises NoContext."""
    if not sampling:
        return model.new_context(params)
    sampling.add_to(params)
    try:
        made = model.new_context(params)
    except NoContext:
        sampling.free()
        raise
    sampling.attached(made[0])
    return made
