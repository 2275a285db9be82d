"""Memory that does not suffice: what is recognised as that, and which batch would have fitted."""

import gc
from collections.abc import Callable

import torch


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, on a device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On the CPU it has no type of its own: torch's allocator, then oneDNN for what a convolution needs.
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in said or said.strip() == "could not create a primitive"
    )


def fitting_batch(step: Callable[[int], object], batch_size: int) -> int | None:
    """The largest of `batch_size` / 2, / 4, ... (at least 2) for which memory suffices; None if it does for none.

    Tried, not estimated: from the smallest on, for what a larger one takes is not always given back; with a quarter
    more than that, for memory is never as empty again; and twice, for optimizers allocate their moments at the end of
    the first step. What `step` changes is not to be used afterwards.
    """
    sizes = [batch_size >> halvings for halvings in range(1, batch_size.bit_length()) if batch_size >> halvings >= 2]
    fits = None
    for size in reversed(sizes):
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            for _ in range(2):
                step(size + size // 4)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            break
        fits = size
    return fits
