"""OpenMP's compute threads, where llama.cpp has no parameters for them: their number in one call,
and their end.

The functions are found in the runtime that llama.cpp was linked with. Without them nothing is
limited or released.
"""

import ctypes
from collections.abc import Callable

from localinfra.llama.library import llama_cpp

# OpenMP keeps a team of compute threads for each thread that ever computed. libgomp counts sleeping
# ones too, and no longer lets waiting threads spin once there are more than cores: with two models,
# one of them idle, a step of 7 ms takes 20 (2 cores). The handle also finds symbols of libraries
# that llama.cpp links; builds without OpenMP lack this one.
_pause = getattr(llama_cpp._lib, "omp_pause_resource_all", None)
SOFT = 1

Call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

# What GCC makes of `#pragma omp teams num_teams(1) thread_limit(n)`: it calls a function with an
# argument, and gets the numbers of teams and of threads, and flags. The limit holds for the calling
# thread alone. libmtmd fixes its number of threads when it loads a projector.
_in_teams = getattr(llama_cpp._lib, "GOMP_teams_reg", None)
if _in_teams is not None:
    _in_teams.restype = None
    _in_teams.argtypes = [Call, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint]

CAN_LIMIT = _in_teams is not None


def release_threads() -> None:
    """Ends the team of the calling thread; the next computation starts another."""
    if _pause is not None:
        _pause(SOFT)


def with_threads(limit: int, work: Callable[[], int]) -> int:
    """What `work` returns, with at most `limit` threads in each of its parallel regions."""
    if _in_teams is None:
        return work()
    results: list[int] = []
    _in_teams(Call(lambda _: results.append(work())), None, 1, limit, 0)
    return results[0]
