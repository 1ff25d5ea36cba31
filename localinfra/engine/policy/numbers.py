"""Every tuned number of the policies; a simulation in `tests/engine/` fails without it."""

import msgspec


class PolicyNumbers(msgspec.Struct, frozen=True):
    # Step times.
    num_counting: int = 10  # samples that make a mean
    surprise: float = 1.34  # times what is expected, either way: 10 to 15 % are noise
    num_surprises: int = 3  # in a row that are no chance
    fresh_steps: int = 32  # for so long a usual step counts as known
    tile_rows: int = 64  # of llama.cpp's attention, decoding ones included

    # Prefill.
    aim: float = 0.85  # of the allowed gap: steps scatter by 10 to 15 % on a quiet machine
    max_pauses: int = 4  # steps in a row without prompts, to see what is usual
    tile_depth: int = 256  # tokens of a prompt; before, its chunks are small and show their cost
    tile_gain: float = 1.45  # how much sooner tiles must read a prompt than small chunks do
    whole_rows: int = 512  # of a prompt alone on a GPU: a step of so many is read whole

    # Speculation.
    allowance: float = 2.0  # tokens that trials may lose at once
    refill: float = 0.005  # of it, tokens per step

    # Threads.
    collapse_s: float = 0.05  # a thread that waits for its core once loses less
    trial_pairs: int = 8  # of steps; with 10 % noise their mean is known to 3.5 %
    trial_loss: float = 0.3  # steps; a trial that has lost so much ends early
    max_down_trial_s: float = 0.3  # longer steps are not tried with fewer threads
    first_pause_s: float = 0.1  # between a failed trial and the next
    max_pause_s: float = 4.0
    loss_share: float = 0.02  # of the time may be lost in failed trials
    loss_memory_s: float = 120.0
    rest_s: float = 0.25  # without steps, after which idle cores are counted
    num_looks: int = 8  # at them: the event loop, which submitted the request, may still use a core
    look_interval_s: float = 0.001
    idle_window_s: float = 0.5  # of the kernel's ticks of 10 ms


NUMBERS = PolicyNumbers()
