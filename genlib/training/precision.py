"""What numbers a training computes with."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from genlib.errors import GenlibError

_LEAST_CAPABILITY = (8, 0)  # of GPUs that compute with TF32 and bf16


def set_precision(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Apply `precision` (float32, tf32, bf16); the context is to hold around forward and backward passes.

    GenlibError where the device does not compute with it: tf32 is that of CUDA devices of capability 8.0 and more, bf16
    also that of CPUs with AMX or AVX-512 for it. On others, torch would imitate bf16, more slowly than it computes with
    float32, and pass over tf32 in silence. Weights are cast anew at each use: the casts that autocast keeps would
    outlive the steps that change the weights.
    """
    if device.type == "cpu" and (precision == "tf32" or (precision == "bf16" and not computes_bf16())):
        needed = "a CUDA device" if precision == "tf32" else "a CUDA device or a CPU with amx_bf16 or avx512_bf16"
        raise GenlibError(f"precision: {precision} needs {needed}, not this cpu; set precision: float32")
    if device.type == "cuda" and precision != "float32" and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if capability < _LEAST_CAPABILITY:
            raise GenlibError(
                f"precision: {precision} needs a GPU of capability 8.0 or more, and this one "
                f"({torch.cuda.get_device_name(device)}) has {'.'.join(map(str, capability))}; set precision: float32"
            )
    _allow_tf32(False)
    if precision == "tf32":
        return _TensorFloat32()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False) if precision == "bf16" else nullcontext()


class _TensorFloat32:
    """Matrix products and convolutions in TF32 inside the block, in float32 after it; may be entered again."""

    def __enter__(self) -> None:
        _allow_tf32(True)

    def __exit__(self, *_: object) -> None:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def computes_bf16() -> bool:
    """Whether this CPU has instructions for sums of products of bf16."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
