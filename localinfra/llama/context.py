"""A llama context as `engine.Backend`: batches, decoding, logits, and the cells of slots."""

import contextlib
import ctypes
import logging

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.backend import MOST_PADDING, Batch, DecodeFailed
from localinfra.engine.candidates import Candidates
from localinfra.engine.policy.idle_cores import IdleCores
from localinfra.llama.cells import parts_by_slot
from localinfra.llama.device_sampling import agrees, new_context, sampling_for
from localinfra.llama.failures import decode_failure
from localinfra.llama.layout import MemoryLayout
from localinfra.llama.library import llama_cpp
from localinfra.llama.model import LoadFailed, Model, NoContext
from localinfra.llama.openmp import release_threads
from localinfra.llama.params import context_params
from localinfra.llama.reading import decode_picture
from localinfra.llama.rounding import find_rounding, possible_roundings
from localinfra.llama.settings import MIN_OUTPUT_ROWS, ContextSettings, Rounding
from localinfra.llama.state_slots import WindowStateSlots
from localinfra.machine import usable_cores

logger = logging.getLogger(__name__)

# Attention on CPUs (ggml-cpu/ops.cpp): steps of this many rows or more are computed in tiles, whose
# sums depend on which cells share a tile; a single row over MIN_SPLIT or more cells is split among
# threads. Everything between gives each row the same bits whatever the other rows are.
TILE_ROWS = 64
MIN_SPLIT = 512
TILED_TYPES = ("f16", "f32")  # of the KV cache; other types do neither

PROBED_ROWS = 4
PROBE_STRIDE = 997  # a prime; probes use any tokens but the first ones, which stand for no text

# llama_cpp's own declaration creates a pointer object per call, which takes 10 us.
_get_logits = ctypes.cast(llama_cpp.llama_get_logits, ctypes.c_void_p).value or 0
get_logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_get_logits)


class LlamaContext:
    """Owns the context and keeps its model alive. One thread at a time.

    Raises NoContext, and LoadFailed if adapters can't be applied.
    """

    rereads_guesses = False  # as a drafter

    def __init__(self, model: Model, settings: ContextSettings, rounding: Rounding | None = None):
        """`rounding`: as an earlier context like this one had it."""
        self._model = model
        self.row_width = model.row_width
        self.has_grid_positions = model.has_grid_positions
        layout = MemoryLayout(model, settings)
        self.has_full_window = layout.has_full_window
        self.needs_states, self.max_saved = layout.needs_states, layout.max_saved
        self.shares_cells = not layout.is_saved_whole
        self.is_canonical_alone = model.has_state
        self.context_length = settings.context_length
        self.num_sequences = settings.num_sequences
        self.is_on_device = model.has_output_on_device
        # Not measured on GPUs.
        has_idle_cells = model.has_attention and self.shares_cells
        self.idle_cells_slow_steps = has_idle_cells and not model.is_offloaded
        self.batch_size = settings.batch_size
        self.max_output_rows = max(settings.num_sequences, MIN_OUTPUT_ROWS)
        self.max_threads = self._num_threads = settings.threads or usable_cores()
        self._batch_threads = settings.batch_threads or self.max_threads
        # GPUs have other kernels, and without flash attention (never used for Grok) sums depend on
        # what else is cached.
        has_flash = settings.flash_attention is not False and model.architecture != "grok"
        may_be_canonical = has_flash and not model.is_offloaded
        # Separate caches have whole blocks of cells: a few more would cost each of them another.
        pads = may_be_canonical and not settings.separate_caches
        reserve = MOST_PADDING if pads else 0
        params = context_params(model, settings, settings.num_cells + reserve, layout.num_states)
        params.n_outputs_max = self.max_output_rows + MOST_PADDING
        params.n_threads, params.n_threads_batch = self.max_threads, self._batch_threads
        params.swa_full = self.has_full_window
        self._sampling = sampling_for(model, settings, params.n_outputs_max)
        self._pointer, self.footprint = new_context(model, params, self._sampling)
        self._memory = llama_cpp.llama_get_memory(self._pointer)
        self._cells = layout.cell_maps(llama_cpp.llama_n_ctx(self._pointer))
        self._slots = layout.slots(self._pointer, self._cells)
        self._places = self._slots.places if self.has_grid_positions else None
        self._whole_tail = 0
        self.max_rollback = settings.context_length
        if self.needs_states and not layout.can_drop_ends:
            self.max_rollback = llama_cpp.llama_n_rs_seq(self._pointer)
            self._whole_tail = self.max_rollback + 1 if self.max_rollback else 0
        self.num_slots = self._slots.num_slots
        self.num_cells = layout.usable_cells(llama_cpp.llama_n_ctx(self._pointer) - reserve)
        self.num_vocab = model.num_vocab
        self._is_tiled = settings.kv_type in TILED_TYPES
        self._apply_adapters()
        self._make_batch()
        if isinstance(self._slots, WindowStateSlots):
            self._make_stub(self._slots)
        self._check_sampling()
        self.rounding, self._is_cold = None, False
        if may_be_canonical:
            with contextlib.suppress(DecodeFailed):  # requests will fail too, with the reason
                self.rounding = self._probe(rounding)
        found = self.rounding or Rounding()
        self.canonical_rows = found.canonical_rows
        self.canonical_decode_rows = found.canonical_decode_rows
        self._least_rows = found.least_rows

    def _check_sampling(self) -> None:
        """Gives it up where it does not work: llama.cpp copies all rows then."""
        if not self._sampling:
            return
        batch = Batch()
        for slot in (0, self.num_sequences):  # without a sampler the second one has all copied now
            batch.extend(slot, 0, [PROBE_STRIDE * (slot + 1) % self.num_vocab], 1)
        with contextlib.suppress(DecodeFailed):  # requests will fail too, with the reason
            self.decode(batch)
            if not agrees(self._sampling, self._output_rows()[:2]):
                self._give_up_sampling()
        for slot in batch.slots:
            self.drop(slot, 0)

    def _give_up_sampling(self) -> None:
        assert self._sampling
        logger.warning("%s: tokens are not chosen on the device", self._model.path)
        self._sampling.detach()
        self._sampling = None

    def _make_stub(self, slots: WindowStateSlots) -> None:
        batch = Batch()
        batch.extend(self.num_sequences, 0, [0], 1)
        try:
            self.decode(batch)
        except DecodeFailed as error:
            self.close()
            raise NoContext(f"{self._model.path}: {error}") from None
        slots.stub = self.save_state(self.num_sequences)
        self.drop(self.num_sequences, 0)

    def _probe(self, known: Rounding | None) -> Rounding | None:
        """Finds how the weights' kernels round by running them, unless that is known."""
        if self._model.has_attention and not self._cells:
            return None  # the order of its sums is unknown
        most_rows = min(TILE_ROWS - 1 if self._is_tiled else self.batch_size, self.batch_size)
        if self.is_canonical_alone:
            known = Rounding(most_rows, 1)
        elif known not in possible_roundings(most_rows):  # it comes from a file
            return find_rounding(most_rows, self._logits_of_steps)
        self._is_cold = True
        return known

    def _logits_of_steps(self, num_rows: int) -> NDArray[np.float32]:
        """Logits of several tokens, `num_rows` per step: for a single token two kernels may agree
        by chance.

        Computed by as many threads as cores are idle, which changes no bits here: on two cores that
        six busy processes shared, two threads took 4 to 19 s for all steps, and one 0.5 s.
        """
        slot, logits, idle = self.num_sequences, [], IdleCores()
        for start in range(0, max(num_rows, PROBED_ROWS), num_rows):
            if (cores := idle.at_once()) is not None:
                self.set_threads(min(max(1, int(cores)), self.max_threads))
            tokens = [(start + row + 1) * PROBE_STRIDE for row in range(num_rows)]
            batch = Batch()
            batch.extend(slot, start, [token % self.num_vocab for token in tokens], num_rows)
            self.decode(batch)
            logits.append(self._output_rows()[:num_rows].copy())
        self.drop(slot, 0)
        self.set_threads(self.max_threads)
        return np.concatenate(logits)

    def _apply_adapters(self) -> None:
        count = len(self._model.adapters)
        if count:
            pointers, scales = zip(*self._model.adapters, strict=True)
            code = llama_cpp.llama_set_adapters_lora(
                self._pointer,
                (llama_cpp.llama_adapter_lora_p_ctypes * count)(*pointers),
                count,
                (ctypes.c_float * count)(*scales),
            )
            if code:
                self.close()
                raise LoadFailed(f"{self._model.path}: the LoRA files could not be applied")

    def _make_batch(self) -> None:
        """Creates a llama_batch over numpy arrays, refilled each step; llama.cpp never frees it."""
        size = self.batch_size
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._seq_ids = np.zeros(size, np.int32)
        self._num_seq_ids = np.ones(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        address = self._seq_ids.ctypes.data
        pointer = ctypes.POINTER(ctypes.c_int32)
        self._seq_id_pointers = (pointer * size)(
            *(ctypes.cast(address + 4 * index, pointer) for index in range(size))
        )
        batch = self._batch = llama_cpp.llama_batch()
        batch.token = self._tokens.ctypes.data_as(pointer)
        batch.pos = self._positions.ctypes.data_as(pointer)
        batch.n_seq_id = self._num_seq_ids.ctypes.data_as(pointer)
        batch.seq_id = self._seq_id_pointers
        batch.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self._output_index: dict[int, int] = {}
        self._running: Batch | None = None  # not waited for yet
        self._logits = np.zeros((0, self.num_vocab), np.float32)
        self._logits_address = 0

    def set_threads(self, num_threads: int) -> None:
        if num_threads != self._num_threads:
            self._num_threads = num_threads
            # Sets both: to llama.cpp, several decoding sequences are a batch.
            is_most = num_threads == self.max_threads
            batch_threads = self._batch_threads if is_most else num_threads
            llama_cpp.llama_set_n_threads(self._pointer, num_threads, batch_threads)

    def rest(self) -> None:
        if self._is_cold:  # the first request finds the weights in memory, unless it came at once
            with contextlib.suppress(DecodeFailed):  # it will fail too, with the reason
                self._logits_of_steps(PROBED_ROWS)
        if self._num_threads > 1:
            release_threads()

    def decode(self, batch: Batch) -> None:
        size = len(batch)
        self._seq_ids[:size] = batch.slots
        self._wanted[:size] = 0
        self._wanted[batch.output_rows] = 1
        self._output_index = {row: index for index, row in enumerate(batch.output_rows)}
        self._is_cold = False
        if self._sampling:
            self._sampling.begin(batch, self.num_sequences)
        if batch.picture:
            code = decode_picture(self._pointer, self._batch, batch, self._places)
        else:
            self._tokens[:size] = batch.tokens
            self._positions[:size] = self._slots.places.of(batch.slots, batch.positions)
            self._batch.n_tokens = size
            code = llama_cpp.llama_decode(self._pointer, self._batch)
        if code:
            raise decode_failure(code, is_offloaded=self._model.is_offloaded)
        for cells in self._cells:
            if not self._model.has_state:
                cells.add(batch.slots, batch.positions)
                continue
            for rows in parts_by_slot(batch.slots, self._whole_tail):
                cells.add([batch.slots[at] for at in rows], [batch.positions[at] for at in rows])
        self._slots.computed(batch)
        self._running = batch
        if not self.is_on_device:
            self.wait()

    def wait(self) -> None:
        batch, self._running = self._running, None
        if batch is None:
            return
        llama_cpp.llama_synchronize(self._pointer)  # GPUs are asynchronous: the step ends here
        if self._sampling and not self._sampling.end(batch):
            self._give_up_sampling()
            raise DecodeFailed("the device has chosen no tokens")

    def logits(self, row: int) -> NDArray[np.float32]:
        self.wait()
        index = self._output_index[row]
        if self._sampling and self._sampling.has_rows:
            return self._sampling.row(index)
        view: NDArray[np.float32] = self._output_rows()[index]
        return view

    def candidates(self, row: int) -> Candidates | None:
        self.wait()
        if self._sampling and self._sampling.has_rows:
            return self._sampling.candidates(self._output_index[row])
        return None

    def _output_rows(self) -> NDArray[np.float32]:
        """All rows that llama.cpp has room for, recreated only when that buffer moves or grows:
        numpy takes 40 us for that, half a percent of a small model's step."""
        address = get_logits_address(self._pointer)
        num_rows = max(len(self._output_index), len(self._logits))
        if address != self._logits_address or num_rows > len(self._logits):
            buffer = (ctypes.c_float * (num_rows * self.num_vocab)).from_address(address)
            self._logits = np.frombuffer(memoryview(buffer), np.float32).reshape(
                num_rows, self.num_vocab
            )
            self._logits_address = address
        return self._logits

    def stays_ordered(self, batch: Batch, slots: set[int]) -> bool:
        assert not self._model.has_state or len(set(batch.slots)) == 1, "computed in one part"
        return all(cells.stays_ordered(slots, batch.slots) for cells in self._cells)

    def canonical_size(self, num_rows: int) -> int:
        least = self._least_rows
        return -(-num_rows // least) * least if least > 2 else max(num_rows, least)

    def canonical_threads(self) -> int:
        most_seen = max((cells.num_seen for cells in self._cells), default=0)
        return 1 if self._is_tiled and most_seen >= MIN_SPLIT else self.max_threads

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        self._slots.copy(source, target, start, stop)

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        self._slots.drop(slot, start, stop)

    def save(self, slot: int) -> NDArray[np.uint8]:
        return self._slots.save(slot)

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        return self._slots.restore(slot, data)

    def save_state(self, slot: int) -> NDArray[np.uint8]:
        return self._slots.save_state(slot)

    def restore_state(self, slot: int, data: NDArray[np.uint8], position: int) -> bool:
        is_restored = self._slots.restore_state(slot, data)
        return is_restored and self.held(slot) == self._slots.places.after(slot, position)

    def accepts(self, data: NDArray[np.uint8], start: int, stop: int) -> bool:
        if start == stop:
            return self._slots.accepts_state(data, stop)
        return self._slots.accepts(data, start, stop)

    def clear(self) -> None:
        self._slots.clear()

    def is_end(self, token: int) -> bool:
        return self._model.is_end(token)

    def first_readable(self, slot: int) -> int | None:
        """As a drafter, which needs nothing from the model that verifies."""
        return 0

    def held(self, slot: int) -> int:
        """The position after the last token in the slot's cells, and in its state, according to
        llama.cpp."""
        last: int = llama_cpp.llama_memory_seq_pos_max(self._memory, slot)
        return last + 1

    def close(self) -> None:
        """Frees the context; the model stays for detokenizing."""
        if self._pointer:
            llama_cpp.llama_free(self._pointer)
            self._pointer = None
            if self._sampling:
                self._sampling.free()
