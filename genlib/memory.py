"""Memory that does not suffice: what is recognised as that, and which batch would have fitted."""

import gc
from collections.abc import Callable

import torch


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, on a device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's allocator on the CPU


def fitting_batch(step: Callable[[int], object], batch_size: int) -> int | None:
    """The largest of `batch_size` / 2, / 4, ... (at least 2) with which `step` goes through; None if none does.

    Tried, not estimated: what `step` changes is not to be used afterwards.
    """
    while (batch_size := batch_size // 2) >= 2:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            step(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
        else:
            return batch_size
    return None
