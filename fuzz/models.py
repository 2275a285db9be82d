"""Fuzzes `models.load`: the safetensors file of a trained model, and the settings in its metadata."""

import copy
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from fuzz.harness import fuzz, instrumented
from fuzz.tensors import changed

with instrumented():
    from genlib import models, objectives

SHARED: dict[str, Any] = {
    **{"lane": "demo", "dataset": "digits", "features": "digits", "latent_dim": 2, "width": 1, "epochs": 2},
    **{"batch_size": 10, "flip": False, "lr": 1e-3, "ema_halflife_images": None, "precision": "float32"},
}
GAN = {
    "discriminator_width": 1,
    "dropout": 0.3,
    "leaky_slope": 0.3,
    "real_label": 1.0,
    "beta1": 0.5,
    "lr_halflife_images": None,
}
KINDS: list[tuple[dict[str, Any], tuple[int, int, int]]] = [
    ({"model": "vae", "net": "deck28", "output": "sigmoid", "beta": 1.0}, (1, 28, 28)),
    ({"model": "gan", "net": "dcgan", **GAN}, (3, 32, 32)),
    ({"model": "bernoulli_vae", "net": "mlp", "lr_halflife_images": None}, (1, 4, 4)),
]


def read(folder: Path, data: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    model = models.load(path)
    assert model.sample(1).dtype == torch.uint8


def seeds() -> list[bytes]:
    torch.manual_seed(0)
    return [_saved(own, shape, with_best) for own, shape in KINDS for with_best in (False, own["model"] == "gan")]


def _saved(own: dict[str, Any], shape: tuple[int, int, int], with_best: bool) -> bytes:
    objective = objectives.get(own["model"])
    settings = objective.Settings.model_validate(SHARED | own)
    networks = objective.build(settings, shape)
    draws = networks[objective.DRAWS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        averaged, best = copy.deepcopy(draws), copy.deepcopy(draws).state_dict()
        more = (averaged, best, 2) if with_best else (None,)
        models.save(path, "a-run", 0, settings, shape, networks, *more)
        return path.read_bytes()


def mutate(data: bytes, chance: random.Random) -> bytes:
    return changed(data, chance)


if __name__ == "__main__":
    fuzz("models", read, seeds(), mutate)
