"""What a model is trained to do, one file per model: its settings, its losses and its one training step.

A model is a module with what `Objective` lists. Add one by adding a file. params.yaml is checked against the
`Settings` of these modules by stages that need no torch, so they import torch inside functions only.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

from genlib.nets import Shape
from genlib.settings import RunSettings

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer

    Networks = Mapping[str, nn.Module]
    Optimizers = Mapping[str, Optimizer]


class Objective(Protocol):
    """A model: how its networks are built, trained, watched and drawn from. Images are B C H W, float, in 0..1.

    A model whose losses do not say how good its images are says `JUDGED = True` besides: see `judged`.
    """

    Settings: type[RunSettings]
    LOSSES: tuple[str, ...]
    """What `train_step` and `heldout_losses` report, in the order of the history's columns."""
    PLAYERS: Mapping[str, tuple[str, ...]]
    """Each optimizer, and the networks it moves."""
    DRAWS: str
    """The network that turns latent codes into images; the one that is averaged when EMA is on."""

    def build(self, settings: RunSettings, shape: Shape) -> "dict[str, nn.Module]":
        """The networks by name, with fresh weights from torch's default generator."""

    def optimizer(self, player: str, networks: "Networks", settings: RunSettings) -> "Optimizer":
        """The optimizer of one player."""

    def train_step(
        self, networks: "Networks", optimizers: "Optimizers", images: "Tensor", rng: "Generator", settings: RunSettings
    ) -> "dict[str, Tensor]":
        """Move the weights once; the losses, detached scalars, are those before the move."""

    def heldout_losses(
        self, networks: "Networks", images: "Tensor", rng: "Generator", settings: RunSettings
    ) -> "dict[str, Tensor]":
        """The same quantities on images that training does not see, one value per image (B)."""

    def fed(self, networks: "Networks", images: "Tensor", rng: "Generator", settings: RunSettings) -> "Tensor":
        """What the network that draws is fed in a training step on these images: codes B x Z."""

    def draw(self, networks: "Networks", latents: "Tensor") -> "Tensor":
        """Latent codes B x Z to images in 0..1."""

    def preview(self, networks: "Networks", latents: "Tensor", images: "Tensor") -> "Tensor":
        """What a picture of training's progress shows: drawn from `latents`, or made of held-out `images`."""


def draws_from_prior(objective: Objective) -> bool:
    """Whether the model's codes have a distribution to draw from, as a VAE's and a GAN's have and an autoencoder's not.

    Where they have none, the pictures of training's progress are made of the dataset's images (`Objective.preview`).
    """
    return hasattr(objective, "posterior") or not hasattr(objective, "encode")


def judged(objective: Objective) -> bool:
    """Whether samples are judged after each epoch (`genlib.training.judging`), and the best checkpoint is kept."""
    return bool(getattr(objective, "JUDGED", False))


@cache
def names() -> tuple[str, ...]:
    """The models there are."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def get(name: str) -> Objective:
    """The model called `name`."""
    return cast(Objective, importlib.import_module(f"{__name__}.{name}"))
