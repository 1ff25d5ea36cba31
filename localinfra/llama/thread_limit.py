"""Fewer compute threads for one call, where llama.cpp has no parameter for them: libmtmd fixes
their number when it loads a projector.

OpenMP has limits on threads per region of code, which compilers set by a function of its runtime.
libgomp's is known here; without it, nothing is limited.
"""

import ctypes
from collections.abc import Callable

from localinfra.llama.library import llama_cpp

Call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

# What GCC makes of `#pragma omp teams num_teams(1) thread_limit(n)`: calls the function with its
# argument, the numbers of teams and of threads, and flags. It holds for the calling thread alone.
_in_teams = getattr(llama_cpp._lib, "GOMP_teams_reg", None)
if _in_teams is not None:
    _in_teams.restype = None
    _in_teams.argtypes = [Call, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint]

CAN_LIMIT = _in_teams is not None


def with_threads(limit: int, work: Callable[[], int]) -> int:
    """What `work` returns, with at most `limit` threads in each of its parallel regions."""
    if _in_teams is None:
        return work()
    results: list[int] = []
    _in_teams(Call(lambda _: results.append(work())), None, 1, limit, 0)
    return results[0]
