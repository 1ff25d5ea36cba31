"""Errors after which a GPU computes nothing more for this process, whoever asks."""


class DeviceLost(Exception):
    """Raised where a library's status says it; torch has its own class."""


def is_lost(error: BaseException) -> bool:
    """Such an error sticks: CUDA gives it to every later call. Lack of memory passes."""
    if isinstance(error, DeviceLost):
        return True
    words = str(error)
    is_of_torch = type(error).__name__ == "AcceleratorError" or "CUDA error" in words
    return is_of_torch and "out of memory" not in words
