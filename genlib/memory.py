"""Memory: kept from step to step; and where it does not suffice, how that is recognised and which batch would fit."""

import ctypes
import gc
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_DEFAULT_THRESHOLD = 128 << 10
_LARGEST_THRESHOLD = 32 << 20  # that glibc takes
_KEPT_BYTES = 2**31 - 1
# What errors without a type of their own say: torch's allocator on the CPU, and, around torch's own on a GPU, CUDA
# itself (graphs, pinned memory) and its libraries.
_SHORT = (
    "can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED", "ran out of memory outside PyTorch",
)  # fmt: skip


def keep_freed() -> None:
    """Let glibc's allocator, where there is one, keep up to 2 GiB of what is freed instead of giving it back.

    Every training step frees what it allocated. By default, large pieces are given back each time, and the kernel maps
    and clears new pages for the next step: 15,000 of them, a sixth of the time, in one step of MNIST's VAE; 600, a
    quarter of the time, for one drawn face.
    """
    _allocate(_LARGEST_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Undo `keep_freed`, and give back what is kept: where memory is scarce, pieces of other sizes are needed."""
    if _allocate(_DEFAULT_THRESHOLD, _DEFAULT_THRESHOLD):
        ctypes.CDLL(None).malloc_trim(0)


def _allocate(mapped_bytes: int, kept_bytes: int) -> bool:
    """Set from which size on glibc maps a piece by itself, and how much it keeps; False where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt(_M_MMAP_THRESHOLD, mapped_bytes)
    mallopt(_M_TRIM_THRESHOLD, kept_bytes)
    return True


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, on a device or on the host."""
    import torch  # here, for a stage that draws needs none

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        any(words in said for words in _SHORT)
        or said.strip() == "could not create a primitive"  # oneDNN, for what a convolution needs
    )


def fitting_batch(step: Callable[[int], object], batch_size: int) -> int | None:
    """The largest of `batch_size` / 2, / 4, ... (at least 2) for which memory suffices; None if it does for none.

    Tried, not estimated: from the smallest on, for what a larger one takes is not always given back; with a quarter
    more than that, for memory is never as empty again; and twice, for optimizers allocate their moments at the end of
    the first step. What `step` changes is not to be used afterwards.
    """
    import torch

    sizes = [batch_size >> halvings for halvings in range(1, batch_size.bit_length()) if batch_size >> halvings >= 2]
    fits = None
    give_back()
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
