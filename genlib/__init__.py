"""Generative models trained, sampled and compared reproducibly: autoencoders, VAEs and GANs.

    from genlib import grid, load

    model = load("runs/demo/digits-gan/model.safetensors")
    grid(model.sample(16, seed=0))

The names in `__all__` stay what they are; docs/library.md describes them. Importing the package imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genlib.errors import GenlibError
    from genlib.library import TrainedModel, grid, load

__all__ = ["GenlibError", "TrainedModel", "grid", "load"]

_HOMES = {
    "GenlibError": "genlib.errors",
    "TrainedModel": "genlib.library",
    "grid": "genlib.library",
    "load": "genlib.library",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genlib' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
