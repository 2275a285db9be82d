"""What a process of a team does in tests: `python -m teamwork train FOLDER`, or `fail`.

`train` does the tasks in FOLDER/tasks.json, in the numbers that tell a wrong formula from rounding: float64.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genlib import launch, objectives, training
from genlib.data import batches
from genlib.data.arrays import Images
from genlib.errors import GenlibError
from genlib.settings import ProgressSettings
from genlib.terminal import guarded, listen
from genlib.training import distributed
from genlib.training.distributed import Team

PROGRESS = ProgressSettings(frames=2, images=3, codes=3, rows_per_epoch=2, judged=4)


@contextmanager
def exact() -> Iterator[None]:
    """Networks, noise and images in float64 inside the block."""

    def to_float(images: Tensor) -> Tensor:
        return images.to(torch.float64) / 255

    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(batches, "to_float", to_float), patch.object(training, "to_float", to_float):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def spoilt(what: str) -> Iterator[None]:
    """One thing that processes do together left out inside the block."""
    left_out: dict[str, tuple[Any, str, Any]] = {
        "noise": (distributed, "_DRAWN", set()),
        "dropout": (distributed, "_DRAWN_FOR", set()),
        "batch norm": (distributed._Together, "_batch_norm", staticmethod(F.batch_norm)),
        "gradients": (distributed._Together, "_average_gradients", lambda _: None),
    }
    with patch.object(*left_out[what]) if what else nullcontext():
        yield


def trained(task: Mapping[str, Any], images: Images, team: Team, on: torch.device) -> dict[str, Tensor]:
    """Weights, buffers and losses of a training; `task`: its settings, and what is `spoilt` or `unaware`."""
    objective = objectives.get(task["settings"]["model"])
    settings = objective.Settings.model_validate(task["settings"])
    channels, height, width = images.shape[1:]
    with exact(), spoilt(task["spoilt"]):
        state = training.start(settings, 0, (channels, height, width), on, team)
        if task["unaware"]:
            state.objective = Unaware(objective)
        list(training.run(state, images, images[:4], PROGRESS, None))
    parts = {name: network.state_dict() for name, network in state.drawing().items()}
    found = {f"{part}.{name}": tensor.cpu() for part, tensors in parts.items() for name, tensor in tensors.items()}
    rows = [
        [row[f"{split}_{name}"] for split in ("train", "val") for name in objective.LOSSES] for row in state.history
    ]
    return found | {"losses": torch.tensor(rows, dtype=torch.float64)}


class Unaware:
    """A GAN whose step was written by somebody who does not know that there may be several processes."""

    def __init__(self, gan: objectives.Objective) -> None:
        self._gan = gan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gan, name)

    def train_step(
        self,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        images: Tensor,
        rng: torch.Generator,
        settings: Any,
    ) -> dict[str, Tensor]:
        """Noisy images, dropout as a function, a penalty on gradients (R1, Mescheder et al. 2018), clipping."""
        generator, discriminator = networks["generator"], networks["discriminator"]
        noise = torch.randn((len(images), settings.latent_dim), generator=rng, device=images.device)
        fake = generator(F.dropout(noise, 0.2))
        real = (2 * images - 1 + 0.1 * torch.randn_like(images)).requires_grad_()
        logits, fake_logits = discriminator(real), discriminator(fake.detach())
        [slope] = torch.autograd.grad(logits.sum(), real, create_graph=True)
        loss_d = (F.softplus(-logits) + F.softplus(fake_logits) + slope.square().flatten(1).sum(1)).mean()
        self._move("discriminator", networks, optimizers, loss_d)
        discriminator.requires_grad_(False)
        loss_g = F.softplus(-discriminator(fake)).mean()
        self._move("generator", networks, optimizers, loss_g)
        discriminator.requires_grad_(True)
        losses = dict.fromkeys(self._gan.LOSSES, loss_d.detach())
        return losses | {"generator": loss_g.detach(), "d_real": logits.detach().mean()}

    @staticmethod
    def _move(
        player: str, networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], loss: Tensor
    ) -> None:
        optimizers[player].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks[player].parameters(), 0.5)
        optimizers[player].step()


def main(*words: str) -> None:
    """See the top of this module."""
    match words:
        case ("fail",):
            with launch.joined(os.environ) as team:
                if not team.first:
                    raise GenlibError("chairs: 3 are too few; fetch one")
                while True:
                    team.total(torch.ones(()))
        case ("train", folder):
            with launch.joined(os.environ) as team:
                _train(Path(folder), team)


def _train(folder: Path, team: Team) -> None:
    on = launch.own_device(torch.device(os.environ["GENLIB_DEVICE"]), team, os.environ)
    tasks, images = json.loads((folder / "tasks.json").read_text()), np.load(folder / "images.npy")
    for name, task in tasks.items():
        try:
            found = trained(task, images, team, on)
        except GenlibError as error:
            found = {"refused": torch.frombuffer(bytearray(str(error).encode()), dtype=torch.uint8)}
        if team.first:
            save_file({key: tensor.contiguous() for key, tensor in found.items()}, folder / f"{name}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    listen()
    guarded(main)(*sys.argv[1:])
