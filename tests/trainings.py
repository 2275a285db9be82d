"""Trainings that take a moment, judged where their model is, and the bytes that come of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genlib import models, objectives, rng, training
from genlib.checkpoint import Keeper
from genlib.features import MeasuringNetwork
from genlib.features.classifiers import build
from genlib.settings import ProgressSettings, RunSettings
from genlib.training import history, judging
from genlib.training.judging import Judge

CPU = torch.device("cpu")
SHAPE = (1, 28, 28)
IDENTITY = {"test": 1}

Small = Callable[..., RunSettings]
Bars = Callable[[int], NDArray[np.uint8]]
Kinds = dict[str, dict[str, Any]]

# What has state of its own between epochs: noise, 2-D codes, averages, batch norm, dropout, two optimizers.
KINDS: Kinds = {
    "ae": {"noise": 0.3},
    "vae": {"latent_dim": 2},
    "gan": {"dropout": 0.4, "ema_halflife_images": 15.0},
}
PROGRESS = ProgressSettings(frames=4, images=5, codes=7, rows_per_epoch=2, judged=8)
COUNT, HELD_OUT = 34, 11  # with batches of 10: 3 steps an epoch, 4 images left out


def judge_of(val: NDArray[np.uint8]) -> Judge:
    """A judge with a measuring network that has learnt nothing."""
    classes = tuple("abc")
    with rng.default_generators(0, "test"):
        classifier = build("plain", 1, 28, len(classes), 2).eval()
    network = MeasuringNetwork("bars", "classes", classes, "0", classifier, CPU)
    return judging.judge(network, {"labels": "classes", "classes": list(classes)}, val, PROGRESS.judged, 0)


def advance(
    state: training.Training, bars: Bars, keeper: Keeper | None = None, epochs: int | None = None
) -> list[training.Epoch]:
    """Train, to the end or for some epochs."""
    images = bars(COUNT + HELD_OUT)
    judge = judge_of(images[COUNT:]) if objectives.judged(state.objective) else None
    going = training.run(state, images[:COUNT], images[COUNT:], PROGRESS, keeper, judge)
    return [epoch for _, epoch in zip(range(epochs or 1000), going, strict=False)]


def outputs(state: training.Training, folder: Path) -> dict[str, bytes]:
    """All the bytes that the train stage writes, provenance aside."""
    checkpoints = (state.averaged, state.best, state.best_epoch)
    models.save(folder / "model", "r", state.seed, state.settings, SHAPE, state.networks, *checkpoints)
    history.write(folder / "log", state, SHAPE)
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def trained(settings: RunSettings, bars: Bars, folder: Path, seed: int = 0) -> dict[str, bytes]:
    state = training.start(settings, seed, SHAPE, CPU)
    advance(state, bars)
    return outputs(state, folder)
