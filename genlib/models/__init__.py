"""Trained models on disk: weights as safetensors with the settings they were trained with, and their architecture."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from genlib import nets, objectives, rng
from genlib.data.arrays import Images
from genlib.data.batches import to_float, to_uint8
from genlib.errors import GenlibError
from genlib.files import write_bytes
from genlib.models import weights
from genlib.settings import Count, Frozen, Name, RunSettings, Seed

_AVERAGED, _BEST = "averaged", "best"
_DRAW_BATCH = 250
_Side = Annotated[int, Field(ge=1, le=4096)]

Checkpoint = Literal["last", "best"]
"""After the last epoch of training, or after the one whose samples had the lowest FID on validation images."""


class _Metadata(Frozen):
    """What a model file says of itself; the settings are checked against the model's own type.

    `best_epoch`: only where there is a best checkpoint.
    """

    run: Name
    seed: Seed
    settings: dict[str, Any]
    shape: tuple[Annotated[int, Field(ge=1, le=16)], _Side, _Side]
    best_epoch: Count | None = None


@dataclass(frozen=True)
class Model:
    """A trained model, in evaluation mode.

    `averaged` is the EMA of the network that draws, None when EMA was off. `best` is the network to draw with as it was
    after the epoch `best_epoch`; both are None for models that were not judged while they trained.
    """

    run: str
    seed: int
    settings: RunSettings
    shape: tuple[int, int, int]
    objective: objectives.Objective
    networks: dict[str, nn.Module]
    averaged: nn.Module | None
    best: nn.Module | None
    best_epoch: int | None
    device: torch.device

    def drawing(self, checkpoint: Checkpoint = "last") -> dict[str, nn.Module]:
        """The networks to draw with: averaged where there is an average. GenlibError if there is no best checkpoint."""
        draws = self.averaged
        if checkpoint == "best":
            draws = self.best
            if draws is None:
                raise GenlibError(
                    f"{self.run}: checkpoint best: this {self.settings.model} has only the last one; draw from last, "
                    "or, where samples are judged (gan), train it again with dvc repro"
                )
        return self.networks | ({self.objective.DRAWS: draws} if draws is not None else {})

    @torch.no_grad()
    def decode(self, codes: Tensor, averaged: bool = True, checkpoint: Checkpoint = "last") -> Tensor:
        """Latent codes N Z to images uint8 N C H W, on the CPU.

        `averaged=False`: with the weights of the last step themselves; GenlibError together with the best checkpoint,
        which does not have them.
        """
        if not averaged and checkpoint == "best":
            raise GenlibError(f"{self.run}: the best checkpoint has no weights but those it draws with; set averaged")
        networks = self.drawing(checkpoint) if averaged else self.networks
        batches = torch.split(codes.to(self.device), _DRAW_BATCH)
        return torch.cat([to_uint8(self.objective.draw(networks, batch)).cpu() for batch in batches])

    @torch.no_grad()
    def encode(self, images: Images) -> Tensor:
        """Images uint8 N C H W to their codes N Z (a VAE: to the means), on the CPU; for models that encode."""
        objective: Any = self.objective
        batches = torch.split(torch.from_numpy(images), _DRAW_BATCH)
        return torch.cat([objective.encode(self.networks, to_float(batch.to(self.device))).cpu() for batch in batches])

    def reconstruct(self, images: Images) -> Images:
        """Images encoded (a VAE: to the mean of its code) and decoded again, uint8 N C H W; for models that encode."""
        return self.decode(self.encode(images)).numpy()

    @torch.no_grad()
    def observed(self, images: Images) -> Images:
        """Images uint8 N C H W as the model takes them to be: the same, or binarised (0 and 255) with its seed."""
        objective: Any = self.objective
        if not hasattr(objective, "observe"):
            return images
        draws = rng.generator(self.seed, "binarised images")
        batches = torch.split(torch.from_numpy(images), _DRAW_BATCH)
        return torch.cat([to_uint8(objective.observe(to_float(batch), draws)) for batch in batches]).numpy()

    @torch.no_grad()
    def corrupted(self, images: Images) -> Images:
        """Images with the noise that a denoising autoencoder was trained to remove, uint8 N C H W."""
        objective: Any = self.objective
        noise = rng.generator(self.seed, "evaluation noise")
        return to_uint8(objective.corrupt(to_float(torch.from_numpy(images)), noise, self.settings.noise)).numpy()  # type: ignore[attr-defined]

    def sample(self, count: int, seed: int = 0, averaged: bool = True, checkpoint: Checkpoint = "last") -> Tensor:
        """`count` images drawn from N(0, I) codes, uint8 N C H W; the same for the same seed. Else as `decode`."""
        return self.decode(rng.latents(count, self.settings.latent_dim, seed, "samples"), averaged, checkpoint)


def save(
    path: Path,
    run: str,
    seed: int,
    settings: RunSettings,
    shape: tuple[int, int, int],
    networks: dict[str, nn.Module],
    averaged: nn.Module | None,
    best: Mapping[str, Tensor] | None = None,
    best_epoch: int | None = None,
) -> None:
    """Write the weights of all networks (and of the average) with run, seed, settings and C H W as metadata.

    `best`: weights and buffers of the best checkpoint of the network that draws, and its epoch; both or neither.
    """
    parts = {part: network.state_dict() for part, network in networks.items()}
    if averaged is not None:
        parts[_AVERAGED] = averaged.state_dict()
    metadata = {"run": run, "seed": seed, "settings": settings.model_dump(), "shape": list(shape)}
    if best is not None:
        parts[_BEST] = dict(best)
        metadata["best_epoch"] = best_epoch
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, weights in parts.items()
        for name, tensor in weights.items()
    }
    # One key: the format keeps no order between several, and the bytes are to be the same every time.
    write_bytes(path, save_tensors(tensors, metadata={"genlib": json.dumps(metadata, sort_keys=True)}))


def load(path: Path, device: torch.device | str = "cpu") -> Model:
    """Read a model file. Nothing in it is executed, and memory grows with what it holds, not with what it announces.

    Raises:
        GenlibError: the file is missing, damaged, or was not written by `save`.
    """
    device = torch.device(device)
    try:
        with weights.opened(path) as (text, file):
            metadata = _Metadata.model_validate_json(text)
            objective = objectives.get(_known(metadata.settings.get("model"), objectives.names()))
            settings = objective.Settings.model_validate(metadata.settings)
            _known(settings.net, nets.names())
            parts = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118  (not a mapping)
            with weights.unfilled():
                networks = objective.build(settings, metadata.shape)
                drawing = {
                    part: objective.build(settings, metadata.shape)[objective.DRAWS]
                    for part in (_AVERAGED, _BEST)
                    if part in parts
                }
            if (_BEST in drawing) != (metadata.best_epoch is not None):
                raise ValueError(f"best_epoch is {metadata.best_epoch}, which does not go with its tensors")
            weights.fill(networks | drawing, file, device)
        for network in (networks | drawing).values():
            network.eval()
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such model file; train it with dvc repro") from error
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, OverflowError, GenlibError) as error:
        reason = " ".join(str(error).split()).encode("unicode_escape").decode()[:200]
        raise GenlibError(f"{path}: not a model file of genlib ({reason}); train it again with dvc repro") from error
    averaged, best = drawing.get(_AVERAGED), drawing.get(_BEST)
    run, seed, best_epoch = metadata.run, metadata.seed, metadata.best_epoch
    return Model(run, seed, settings, metadata.shape, objective, networks, averaged, best, best_epoch, device)


def _known(name: Any, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ValueError(f"{name!r} is not one of {', '.join(names)}")
    return str(name)
