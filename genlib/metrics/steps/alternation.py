"""Who moves when: how far each network's weights go in each half of an alternating training step.

The training step itself is run on copies of the networks, with the objective's own losses and optimizers; what is
measured is therefore what training does. Weights are parameters: the running statistics of batch norm, which follow
every batch that passes in training mode, are none.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genlib import objectives, rng
from genlib.data.arrays import Images
from genlib.data.batches import to_float
from genlib.errors import GenlibError
from genlib.models import Model


@dataclass(frozen=True)
class HalfStep:
    """One optimizer's move. `moves`: the player; `changes`: each network's ||after - before|| / ||before||.

    A network that is held constant has a change of exactly 0.
    """

    moves: str
    changes: Mapping[str, float]


def alternating(objective: objectives.Objective) -> bool:
    """Whether training has more than one player, so that there is an alternation to measure."""
    return len(objective.PLAYERS) > 1


def half_steps(model: Model, images: Images, steps: int) -> tuple[HalfStep, ...]:
    """Train a copy of a model for a few steps and measure every half-step; the model itself stays as it is.

    The optimizers begin afresh: a model file does not hold their states.

    Args:
        model: of an objective that is `alternating`.
        images: training images uint8 N C H W; each step takes the next `batch_size` of them, from the first again when
            they run out, and all of them if they are fewer.
        steps: how many, at least 1.

    Returns:
        The half-steps in the order in which they happened: `steps` for each player.

    Raises:
        GenlibError: the model has one player only.
    """
    objective, settings = model.objective, model.settings
    if not alternating(objective):
        raise GenlibError(f"{model.run}: {settings.model} trains in one move; only players that alternate (gan) differ")
    networks = {name: deepcopy(network).train() for name, network in model.networks.items()}
    found: list[HalfStep] = []
    optimizers = {
        player: cast(Optimizer, _Watched(player, objective.optimizer(player, networks, settings), networks, found))
        for player in objective.PLAYERS
    }
    noise = rng.generator(model.seed, "alternation", 0, model.device)
    size = min(settings.batch_size, len(images))
    with rng.default_generators(model.seed, "alternation"):  # dropout
        for step in range(steps):
            batch = images[[(step * size + index) % len(images) for index in range(size)]]
            pixels = to_float(torch.from_numpy(batch).to(model.device))
            objective.train_step(networks, optimizers, pixels, noise, settings)
    return tuple(found)


class _Watched:
    """An optimizer that notes how far each network is moved by its steps."""

    def __init__(
        self, player: str, optimizer: Optimizer, networks: Mapping[str, nn.Module], found: list[HalfStep]
    ) -> None:
        self._player, self._optimizer, self._networks, self._found = player, optimizer, networks, found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def step(self) -> None:
        before = {name: _weights(network) for name, network in self._networks.items()}
        self._optimizer.step()
        changes = {name: _relative_change(before[name], _weights(net)) for name, net in self._networks.items()}
        self._found.append(HalfStep(self._player, changes))


def _weights(network: nn.Module) -> list[Tensor]:
    return [weight.detach().double().clone() for weight in network.parameters()]


def _relative_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    squares = sum(float((new - old).square().sum()) for old, new in zip(before, after, strict=True))
    size = sum(float(old.square().sum()) for old in before)
    return float((squares / size) ** 0.5)
