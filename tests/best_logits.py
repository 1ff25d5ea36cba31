"""A row's candidates, as a device chooses them."""

import numpy as np
from numpy.typing import NDArray

from localinfra.engine.candidates import Candidates


def best_of(row: NDArray[np.float32], count: int) -> Candidates:
    """In no order, and any of equal ones."""
    ids = np.argpartition(-row, count - 1)[:count] if count < len(row) else np.arange(len(row))
    total = np.exp(row.astype(np.float64) - row.max()).sum()
    return Candidates(ids, row[ids], float(total), len(row))
