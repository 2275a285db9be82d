"""Averaged weights: how fast they forget, what they start from, and batch norm that fits them."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from trainings import COUNT, CPU, HELD_OUT, PROGRESS, SHAPE, Bars, Small, advance, judge_of

from genlib import objectives, rng, training
from genlib.data import batches
from genlib.errors import GenlibError
from genlib.training.averaging import average_into, decay
from genlib.training.judging import Judge

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_running_average_follows_its_halflife(small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights that stand still, what is left of the distance is the product of the steps' decays."""
    nothing = torch.zeros(())
    gan = objectives.get("gan")
    monkeypatch.setattr(gan, "train_step", lambda *_: dict.fromkeys(gan.LOSSES, nothing))
    for batch_size, halflife in ((2, 1.0), (5, 0.4), (10, 30.0)):
        settings = small("gan", epochs=2, batch_size=batch_size, ema_halflife_images=halflife)
        state = training.start(settings, 0, SHAPE, CPU)
        assert state.averaged is not None
        for network, value in ((state.networks["generator"], 3.0), (state.averaged, 1.0)):
            for weight in network.parameters():
                nn.init.constant_(weight, value)
        images = bars(30)
        list(training.run(state, images, images, PROGRESS, None))
        halvings = sum(batch_size / min(halflife, 0.2 * seen) for seen in range(batch_size, 61, batch_size))
        for weight in state.averaged.parameters():
            torch.testing.assert_close(weight, torch.full_like(weight, 3.0 - 2.0 * 0.5**halvings))


def test_half_is_left_after_the_halflife_whatever_the_batch_size() -> None:
    for batch_size in (1, 4, 10):
        steps = range(100_000, 100_020, batch_size)
        assert math.prod(decay(batch_size, 20.0, seen) for seen in steps) == pytest.approx(0.5)


def test_the_first_weights_are_forgotten_in_a_short_training() -> None:
    left = [math.prod(decay(10, 1e9, seen) for seen in range(10, end + 1, 10)) for end in (10, 100, 1000)]
    assert left == sorted(left, reverse=True)
    assert left[0] < 0.05
    assert left[-1] < 1e-6


def test_averages_start_at_the_first_weights(small: Small) -> None:
    state = training.start(small("gan", ema_halflife_images=10.0), 0, SHAPE, CPU)
    assert state.averaged is not None
    networks = state.networks["generator"].state_dict()
    assert all(torch.equal(tensor, networks[name]) for name, tensor in state.averaged.state_dict().items())
    assert not any(weight.requires_grad for weight in state.averaged.parameters())
    assert state.drawing()["generator"] is state.averaged
    assert training.start(small("gan"), 0, SHAPE, CPU).averaged is None


def test_average_into_is_the_formula() -> None:
    with rng.default_generators(0, "test"):
        network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        averaged = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    expected = {name: weight.detach().double() for name, weight in averaged.named_parameters()}
    for step in range(3):
        network(torch.randn(5, 2, generator=torch.Generator().manual_seed(step)))  # moves the buffers
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(step + 1)
        for name, weight in network.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * weight.detach().double()
        average_into(averaged, network, 0.9)
    for name, weight in averaged.named_parameters():
        torch.testing.assert_close(weight.double(), expected[name], atol=1e-6, rtol=1e-6)
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, averaged.get_buffer(name))
    assert averaged.get_buffer("1.num_batches_tracked").item() == 3


def test_average_into_another_network_is_refused() -> None:
    with pytest.raises(GenlibError, match="not built like"):
        average_into(nn.Linear(2, 3), nn.Linear(2, 3, bias=False), 0.9)


def test_batch_norm_of_the_average_is_measured_on_the_average(small: Small, bars: Bars) -> None:
    """Statistics of the last weights, copied, do not fit averaged ones: measured anew, they do, for every way of
    feeding the network that draws.
    """
    images = bars(40)
    for model in ("ae", "vae", "gan"):
        settings = small(model, net="dcgan", ema_halflife_images=1e6, batch_size=20, latent_dim=3)
        state = training.start(settings, 0, (1, 32, 32), CPU)
        assert state.averaged is not None
        first = state.averaged.get_submodule("2")
        assert isinstance(first, nn.BatchNorm2d)
        padded = torch.from_numpy(np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2))))
        training.settle(state, padded)
        noise = rng.generator(0, "statistics")
        assert first.training
        for network in state.networks.values():
            network.eval()
        with torch.no_grad():
            parts = [
                state.objective.fed(state.networks, batches.to_float(batch), noise, settings)
                for batch in padded.split(20)
            ]
            inputs = [state.averaged.get_submodule("1")(state.averaged.get_submodule("0")(part)) for part in parts]
        means = torch.stack([part.mean((0, 2, 3)) for part in inputs]).mean(0)
        variances = torch.stack([part.var((0, 2, 3)) for part in inputs]).mean(0)
        assert variances.min() > 0
        assert first.running_mean is not None
        assert first.running_var is not None
        torch.testing.assert_close(first.running_mean, means, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(first.running_var, variances, rtol=1e-4, atol=1e-7)
        assert first.momentum == 0.1


def test_samples_are_judged_by_settled_weights(small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an epoch that ends without a picture of the progress, which settles them on fewer images."""
    monkeypatch.setattr(training, "_FRAME_STATISTICS_IMAGES", 10)
    judged: list[dict[str, torch.Tensor]] = []
    judge = training._judge_samples

    def watched(state: training.Training, by: Judge) -> object:
        assert state.averaged is not None
        judged.append({name: buffer.clone() for name, buffer in state.averaged.named_buffers()})
        return judge(state, by)

    monkeypatch.setattr(training, "_judge_samples", watched)
    settings = small("gan", epochs=2, ema_halflife_images=15.0)
    state, images = training.start(settings, 0, SHAPE, CPU), bars(COUNT + HELD_OUT)
    train, val = images[:COUNT], images[COUNT:]
    recorded = PROGRESS.model_copy(update={"frames": 2})
    assert 3 not in training._frame_steps(6, recorded.frames)  # the first epoch's last step
    epochs = training.run(state, train, val, recorded, None, judge_of(val))
    next(epochs)
    assert state.averaged is not None
    training.settle(state, torch.from_numpy(train))
    expected = dict(state.averaged.named_buffers())
    assert expected
    assert all(torch.equal(judged[0][name], buffer) for name, buffer in expected.items())


def test_what_is_saved_is_settled(small: Small, bars: Bars) -> None:
    settings = small("gan", ema_halflife_images=15.0)
    state = training.start(settings, 0, SHAPE, CPU)
    advance(state, bars)
    assert state.averaged is not None
    before = {name: buffer.clone() for name, buffer in state.averaged.named_buffers()}
    training.settle(state, torch.from_numpy(bars(COUNT + HELD_OUT)[:COUNT]))
    for name, buffer in state.averaged.named_buffers():
        assert torch.equal(buffer, before[name])
    last = dict(state.networks["generator"].named_buffers())
    assert any(not torch.equal(buffer, last[name]) for name, buffer in before.items())
