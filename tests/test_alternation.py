"""Each half of an alternating step moves one network and leaves the other exactly as it is: measured, not assumed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genlib import models, objectives
from genlib.errors import GenlibError
from genlib.metrics.steps.alternation import half_steps
from genlib.models import Model
from genlib.settings import RunSettings

Bars = Callable[[int], NDArray[np.uint8]]
Small = Callable[..., RunSettings]


def untrained(settings: RunSettings, path: Path) -> Model:
    networks = objectives.get(settings.model).build(settings, (1, 28, 28))
    models.save(path, settings.model, 0, settings, (1, 28, 28), networks, None)
    return models.load(path)


@pytest.fixture
def gan(small: Small, tmp_path: Path) -> Model:
    return untrained(small("gan", lr=1e-2), tmp_path / "model.safetensors")


def test_one_moves_and_the_other_is_held_constant(gan: Model, bars: Bars) -> None:
    found = half_steps(gan, bars(25), steps=3)
    assert [half.moves for half in found] == ["discriminator", "generator"] * 3
    for half in found:
        held = {"discriminator": "generator", "generator": "discriminator"}[half.moves]
        assert half.changes[held] == 0.0
        assert half.changes[half.moves] > 1e-4


def test_the_change_is_relative_to_the_weights(gan: Model, bars: Bars) -> None:
    """Adam's first step moves weights that have a gradient by the learning rate: sqrt(count) * lr / norm at most."""
    first = half_steps(gan, bars(10), steps=1)[0]
    weights = torch.cat([weight.detach().flatten() for weight in gan.networks["discriminator"].parameters()])
    most = len(weights) ** 0.5 * 1e-2 / float(weights.norm())
    assert 0.5 * most < first.changes["discriminator"] <= most * 1.0001


def test_the_model_stays_as_it_is_and_the_numbers_repeat(gan: Model, bars: Bars) -> None:
    before = {
        (part, name): tensor.clone()
        for part, network in gan.networks.items()
        for name, tensor in network.state_dict().items()
    }
    torch.manual_seed(1)
    first = half_steps(gan, bars(10), steps=2)
    torch.manual_seed(2)
    assert half_steps(gan, bars(10), steps=2) == first
    for (part, name), tensor in before.items():
        assert torch.equal(gan.networks[part].state_dict()[name], tensor)
    assert not gan.networks["generator"].training


def test_a_model_with_one_player_is_refused(small: Small, bars: Bars, tmp_path: Path) -> None:
    vae = untrained(small("vae"), tmp_path / "model.safetensors")
    with pytest.raises(GenlibError, match="vae trains in one move"):
        half_steps(vae, bars(10), steps=1)
