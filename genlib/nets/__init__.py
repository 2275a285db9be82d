"""Architectures, one file per family; image size, channels and width are arguments.

A family is a module with `encoder`, `decoder`, `generator` and `discriminator`. Add one by adding a file.
"""

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


class Family(Protocol):
    """What a module of this package offers. Images are B C H W; `Z` is latent_dim."""

    def encoder(self, shape: Shape, width: int, outputs: int) -> "nn.Module":
        """Images in 0..1 to B x outputs."""

    def decoder(self, shape: Shape, width: int, latent_dim: int, output: str) -> "nn.Module":
        """Codes B x Z to images."""

    def generator(self, shape: Shape, width: int, latent_dim: int, leaky_slope: float) -> "nn.Module":
        """Noise B x Z to images in -1..1."""

    def discriminator(self, shape: Shape, width: int, leaky_slope: float, dropout: float) -> "nn.Module":
        """Images in -1..1 to logits, B."""


@cache
def names() -> tuple[str, ...]:
    """The families there are."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "layers"))


def get(name: str) -> Family:
    """The family called `name` (imports torch)."""
    return cast(Family, importlib.import_module(f"{__name__}.{name}"))
