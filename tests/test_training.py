"""The training loop: what it computes, that equal runs are equal, that a stopped run goes on as if it had not been."""

import csv
import json
import math
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from genlib import checkpoint, device, history, judging, models, objectives, rng, training
from genlib.averaging import average_into, decay
from genlib.checkpoint import Keeper
from genlib.data import batches
from genlib.errors import GenlibError
from genlib.features import MeasuringNetwork
from genlib.features.classifiers import build
from genlib.judging import Judge
from genlib.settings import ProgressSettings, RunSettings

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(content.decode().splitlines()))


# What is computed.


@pytest.mark.parametrize("model", ["ae", "vae"])
def test_losses_fall_on_an_easy_set(model: str, small: Small, bars: Bars) -> None:
    state = training.start(small(model, epochs=20, lr=3e-3, latent_dim=8, width=4), 0, SHAPE, CPU)
    epochs = advance(state, bars)
    for name in ("train_generation", "val_generation"):
        assert epochs[-1].row[name] < 0.5 * epochs[0].row[name]


def test_a_gan_moves_and_its_discriminator_learns(small: Small, bars: Bars) -> None:
    state = training.start(small("gan", epochs=12, lr=2e-3, width=4, discriminator_width=4), 0, SHAPE, CPU)
    epochs = advance(state, bars)
    assert epochs[-1].row["train_discriminator"] < epochs[0].row["train_discriminator"]
    assert epochs[-1].row["train_d_real"] > epochs[-1].row["train_d_fake"]


def test_an_epoch_is_what_a_plain_loop_does(small: Small, bars: Bars) -> None:
    """Weights and curves of an autoencoder against a loop written here; only the order is taken from genlib."""
    settings = small("ae", epochs=2)
    state = training.start(settings, 3, SHAPE, CPU)
    with rng.default_generators(3, "weights"):
        networks = objectives.get("ae").build(settings, SHAPE)
    encoder, decoder = networks["encoder"], networks["decoder"]
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.lr)
    images = torch.from_numpy(bars(COUNT + HELD_OUT)).float() / 255
    train, val = images[:COUNT], images[COUNT:]
    expected_rows: list[tuple[float, ...]] = []
    means: list[tuple[float, ...]] = []
    for epoch in (1, 2):
        order = torch.randperm(COUNT, generator=rng.generator(3, "order", epoch))
        losses = []
        for batch in order.split(10)[:3]:
            loss = F.mse_loss(decoder(encoder(train[batch])), train[batch], reduction="sum") / 10
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            heldout = F.mse_loss(decoder(encoder(val)), val, reduction="sum").item() / HELD_OUT
        done = 3 * (epoch - 1)
        expected_rows += [(done + 2, 10 * (done + 2), sum(losses[:2]) / 2), (done + 3, 10 * (done + 3), losses[2])]
        means.append((epoch, 30 * epoch, sum(losses) / 3, heldout))
    advance(state, bars)
    for name, network in networks.items():
        for expected, found in zip(network.parameters(), state.networks[name].parameters(), strict=True):
            torch.testing.assert_close(found, expected)
    for found_rows, wanted in ((state.steps, expected_rows), (state.history, means)):
        np.testing.assert_allclose(np.array([list(row.values()) for row in found_rows]), np.array(wanted), rtol=1e-5)


def test_a_running_average_follows_its_halflife(small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights that stand still, what is left of the distance is the product of the steps' decays."""
    nothing = torch.zeros(())
    gan = objectives.get("gan")
    monkeypatch.setattr(gan, "train_step", lambda *_: dict.fromkeys(gan.LOSSES, nothing))
    for batch_size, halflife in ((2, 1.0), (5, 0.4), (10, 30.0)):
        settings = small("gan", epochs=1, batch_size=batch_size, ema_halflife_images=halflife)
        state = training.start(settings, 0, SHAPE, CPU)
        assert state.averaged is not None
        for network, value in ((state.networks["generator"], 3.0), (state.averaged, 1.0)):
            for weight in network.parameters():
                nn.init.constant_(weight, value)
        images = bars(30)
        list(training.run(state, images, images, PROGRESS, None))
        halvings = sum(batch_size / min(halflife, 0.2 * seen) for seen in range(batch_size, 31, batch_size))
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


# What is recorded.


@pytest.mark.parametrize("model", KINDS)
def test_what_is_recorded(model: str, small: Small, bars: Bars, tmp_path: Path) -> None:
    settings = small(model, epochs=3, **KINDS[model])
    state = training.start(settings, 0, SHAPE, CPU)
    epochs = advance(state, bars)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert [epoch.images for epoch in epochs] == [30, 60, 90]
    assert all(epoch.picture.shape == (5, *SHAPE) and epoch.picture.dtype == np.uint8 for epoch in epochs)
    assert all(len(epoch.steps) == 2 for epoch in epochs)

    files = outputs(state, tmp_path)
    tables = {"history.csv", "steps.csv", "progress.safetensors"}
    assert set(files) == {"model", "settings.json", "architecture.json"} | tables
    losses = list(objectives.get(model).LOSSES)
    epoch_rows, step_rows = rows(files["history.csv"]), rows(files["steps.csv"])
    judged = ["val_fid", "val_classes", "val_diversity", "val_collapse"] if model == "gan" else []
    columns = [f"{split}_{name}" for split in ("train", "val") for name in losses]
    assert list(epoch_rows[0]) == ["epoch", "images", *columns, *judged]
    assert [(row["epoch"], row["images"]) for row in epoch_rows] == [("1", "30"), ("2", "60"), ("3", "90")]
    assert list(step_rows[0]) == ["step", "images", *losses]
    assert [int(row["step"]) for row in step_rows] == [2, 3, 5, 6, 8, 9]
    assert [int(row["images"]) for row in step_rows] == [20, 30, 50, 60, 80, 90]
    for index, row in enumerate(epoch_rows):  # an epoch's mean is that of its rows, two steps and one
        first, second = step_rows[2 * index : 2 * index + 2]
        for name in losses:
            mean = (2 * float(first[name]) + float(second[name])) / 3
            assert float(row[f"train_{name}"]) == pytest.approx(mean, rel=1e-5)

    recorded = load_file(tmp_path / "log" / "progress.safetensors")
    assert recorded["images_seen"].tolist() == [0, 20, 40, 90]  # of 9 steps: the start, 9^(1/3), 9^(2/3), 9
    assert recorded["samples"].shape == (4, 5, *SHAPE)
    assert recorded["samples"].dtype == torch.uint8
    assert ("codes" in recorded) == (model == "vae")
    if model == "vae":
        assert recorded["codes"].shape == (4, 7, 2)
        assert recorded["codes"].isfinite().all()


def test_heldout_losses_are_measured_in_evaluation_mode(small: Small, bars: Bars) -> None:
    settings = small("gan", dropout=0.9)
    state = training.start(settings, 0, SHAPE, CPU)
    before = {name: buffer.clone() for name, buffer in state.networks["generator"].named_buffers()}
    images = torch.from_numpy(bars(HELD_OUT))
    found = training.heldout(state, images, 1)
    assert found == training.heldout(state, images, 2)  # no dropout, the same noise
    assert all(torch.equal(buffer, before[name]) for name, buffer in state.networks["generator"].named_buffers())
    assert all(network.training for network in state.networks.values())
    with torch.no_grad():
        logits = state.networks["discriminator"].eval()(2 * (images.float() / 255) - 1)
    assert found["d_real"] == pytest.approx(torch.sigmoid(logits).mean().item(), rel=1e-5)


def test_large_counts_stay_whole_numbers(small: Small, tmp_path: Path) -> None:
    """200 epochs of 60,000 images are 12,000,000, not 1.2e+07; 12,345,678 keeps all its digits."""
    state = training.start(small("ae"), 0, SHAPE, CPU)
    state.history = [{"epoch": 3, "images": 12_345_678, "train_generation": 1 / 3, "val_generation": 12_000_000.0}]
    state.steps = [{"step": 10_000_001, "images": 20_000_000, "generation": 1e-9}]
    state.frames = {"samples": [torch.zeros(1)]}
    history.write(tmp_path / "log", state, SHAPE)
    [epoch], [step] = (rows((tmp_path / "log" / name).read_bytes()) for name in ("history.csv", "steps.csv"))
    assert (epoch["images"], step["step"], step["images"]) == ("12345678", "10000001", "20000000")
    assert float(epoch["train_generation"]) == pytest.approx(1 / 3, rel=1e-6)


def test_pictures_of_progress_are_dense_at_first(small: Small, bars: Bars) -> None:
    state = training.start(small("ae", epochs=10), 0, SHAPE, CPU)
    images = bars(COUNT)
    progress = ProgressSettings(frames=6, images=2, codes=2, rows_per_epoch=1, judged=8)
    list(training.run(state, images, images, progress, None))
    seen = [int(frame) for frame in state.frames["images_seen"]]
    gaps = np.diff(seen)
    assert (seen[0], seen[1], seen[-1]) == (0, 20, 300)
    assert (np.diff(gaps) >= 0).all()


# What is judged.


def scripted(monkeypatch: pytest.MonkeyPatch, fids: list[float], diversities: list[float] | None = None) -> None:
    """The judge says these numbers, epoch by epoch."""
    said = iter(zip(fids, diversities or [1.0] * len(fids), strict=True))
    monkeypatch.setattr(
        Judge, "measure", lambda *_: dict(zip(("fid", "diversity"), next(said), strict=True)) | {"classes": 3.0}
    )


@pytest.mark.parametrize("halflife", [None, 15.0])
def test_the_best_checkpoint_is_that_of_the_lowest_fid(
    halflife: float | None, small: Small, bars: Bars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal ones the first; its weights are those that draw after that epoch."""
    settings = small("gan", epochs=5, ema_halflife_images=halflife)
    scripted(monkeypatch, [9.0, 4.0, 6.0, 4.0, 5.0])
    state = training.start(settings, 0, SHAPE, CPU)
    images = bars(COUNT + HELD_OUT)
    drawn = []
    for _ in training.run(state, images[:COUNT], images[COUNT:], PROGRESS, None, judge_of(images[COUNT:])):
        network = state.drawing()["generator"]
        drawn.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    assert state.best_epoch == 2
    assert state.best is not None
    assert all(torch.equal(tensor, drawn[1][name]) for name, tensor in state.best.items())
    assert any(not torch.equal(tensor, drawn[3][name]) for name, tensor in state.best.items())

    outputs(state, tmp_path)
    model = models.load(tmp_path / "model")
    assert model.best_epoch == 2
    codes = rng.latents(5, settings.latent_dim, 0, "test")
    with torch.no_grad():
        network.load_state_dict(drawn[1])
        expected = batches.to_uint8((network.eval()(codes) + 1) / 2)
    assert torch.equal(model.decode(codes, checkpoint="best"), expected)
    assert not torch.equal(model.decode(codes), expected)


def test_the_judge_sees_what_the_drawing_network_draws_in_the_end(small: Small, bars: Bars, tmp_path: Path) -> None:
    """The judge's last numbers are those of the saved model's samples."""
    state = training.start(small("gan", **KINDS["gan"]), 0, SHAPE, CPU)
    [*_, last] = advance(state, bars)
    outputs(state, tmp_path)
    judge = judge_of(bars(COUNT + HELD_OUT)[COUNT:])
    codes = rng.latents(judge.count, state.settings.latent_dim, state.seed, "judged")
    for name, value in judge.measure(models.load(tmp_path / "model").decode(codes).numpy()).items():
        assert last.row[f"val_{name}"] == pytest.approx(value, rel=1e-9)
    fids = [row["val_fid"] for row in state.history]
    assert state.best_epoch == 1 + fids.index(min(fids))


def test_judging_changes_no_weight_and_no_loss(small: Small, bars: Bars) -> None:
    images = bars(COUNT + HELD_OUT)
    states = []
    for judge in (None, judge_of(images[COUNT:])):
        state = training.start(small("gan", **KINDS["gan"]), 0, SHAPE, CPU)
        list(training.run(state, images[:COUNT], images[COUNT:], PROGRESS, None, judge))
        states.append(state)
    plain, judged = states
    assert plain.best is None
    assert plain.best_epoch is None
    assert plain.averaged is not None
    assert judged.averaged is not None
    for network, other in zip(
        [*plain.networks.values(), plain.averaged], [*judged.networks.values(), judged.averaged], strict=True
    ):
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])
    assert plain.steps == judged.steps
    assert plain.history == [{name: row[name] for name in plain.history[0]} for row in judged.history]


def test_an_alarm_is_in_the_row_and_in_words(small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [4.0, 3.0, 2.0, 1.0], [0.8, 1.0, 0.4, 0.9])
    epochs = advance(training.start(small("gan", epochs=4), 0, SHAPE, CPU), bars)
    assert [epoch.row["val_collapse"] for epoch in epochs] == [0, 0, 1, 0]
    assert [epoch.alarm is not None for epoch in epochs] == [False, False, True, False]
    assert "after epoch 2" in str(epochs[2].alarm)
    [epoch] = advance(training.start(small("ae", epochs=1), 0, SHAPE, CPU), bars)
    assert epoch.alarm is None


def test_an_alarm_remembers_what_was_before_a_stop(
    small: Small, bars: Bars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small("gan", epochs=3)
    scripted(monkeypatch, [1.0, 3.0, 2.0], [0.8, 1.0, 0.4])
    with Keeper(tmp_path, IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=2)
    with Keeper(tmp_path, IDENTITY) as keeper:
        state = training.start(settings, 0, SHAPE, CPU)
        [epoch] = advance(state, bars, keeper)
    assert "1.00 times after epoch 2" in str(epoch.alarm)
    assert state.best_epoch == 1


# Equal runs.


@pytest.mark.parametrize("model", KINDS)
def test_the_same_seed_gives_the_same_bytes(model: str, small: Small, bars: Bars, tmp_path: Path) -> None:
    settings = small(model, **KINDS[model])
    first = trained(settings, bars, tmp_path / "1")
    torch.manual_seed(99)
    torch.rand(7)
    second = trained(settings, bars, tmp_path / "2")
    assert first == second
    other = trained(settings, bars, tmp_path / "3", seed=1)
    assert other["model"] != first["model"]
    assert other["history.csv"] != first["history.csv"]


@pytest.mark.parametrize("model", ["vae", "gan"])
def test_colour_images_of_a_dcgan_are_kept_in_the_usual_order(model: str, small: Small, tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (30, 3, 32, 32)).astype(np.uint8)
    settings = small(model, net="dcgan", epochs=1, ema_halflife_images=15.0, flip=True)
    state = training.start(settings, 0, (3, 32, 32), CPU)
    [epoch] = training.run(state, images[:20], images[20:], PROGRESS, None)
    models.save(tmp_path / "model", "r", 0, settings, (3, 32, 32), state.networks, state.averaged)
    history.write(tmp_path / "log", state, (3, 32, 32))
    frames = load_file(tmp_path / "log" / "progress.safetensors")["samples"]
    assert frames.shape[1:] == (5, 3, 32, 32)
    assert np.array_equal(frames[-1].numpy(), epoch.picture)
    # The model file draws what the last picture of the progress shows.
    again = models.load(tmp_path / "model")
    codes = rng.latents(5, settings.latent_dim, 0, "progress")
    assert np.array_equal(again.decode(codes).numpy(), epoch.picture)


@pytest.mark.parametrize("model", KINDS)
def test_training_leaves_global_randomness_alone(model: str, small: Small, bars: Bars) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    advance(training.start(small(model, **KINDS[model]), 0, SHAPE, CPU), bars)
    after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_recording_more_changes_no_weight(small: Small, bars: Bars, tmp_path: Path) -> None:
    images = bars(COUNT)
    found = []
    for name, frames in (("few", 2), ("many", 9)):
        state = training.start(small("gan", **KINDS["gan"]), 0, SHAPE, CPU)
        progress = ProgressSettings(frames=frames, images=frames, codes=2, rows_per_epoch=frames, judged=8)
        list(training.run(state, images[:25], images[25:], progress, None))
        found.append(outputs(state, tmp_path / name)["model"])
    assert found[0] == found[1]


def test_an_epoch_shows_each_image_at_most_once() -> None:
    images = torch.arange(34, dtype=torch.uint8).reshape(34, 1, 1, 1)

    def order(seed: int, epoch: int) -> list[int]:
        shown = list(batches.shuffled(images, 10, seed, epoch))
        assert [batch.shape for batch in shown] == [(10, 1, 1, 1)] * 3
        return [round(value * 255) for batch in shown for value in batch.flatten().tolist()]

    torch.manual_seed(1)
    first = order(0, 1)
    torch.manual_seed(2)
    assert first == order(0, 1)
    assert len(set(first)) == 30
    assert set(first) < set(range(34))
    assert first not in (order(0, 2), order(1, 1), sorted(first))
    assert {value for epoch in range(20) for value in order(0, epoch)} == set(range(34))  # none is always left out


def test_flips_mirror_half_of_the_images_and_change_nothing_else() -> None:
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (400, 3, 6, 6)).astype(np.uint8))
    plain = [torch.cat(list(batches.shuffled(images, 20, 3, epoch))) for epoch in (1, 2)]
    mixed = [torch.cat(list(batches.shuffled(images, 20, 3, epoch, flip=True))) for epoch in (1, 2)]
    flipped = []
    for straight, maybe in zip(plain, mixed, strict=True):
        mirrored = [torch.equal(one, other.flip(2)) for one, other in zip(maybe, straight, strict=True)]
        same = [torch.equal(one, other) for one, other in zip(maybe, straight, strict=True)]
        assert all(a != b for a, b in zip(mirrored, same, strict=True))  # in the same order
        assert 150 < sum(mirrored) < 250
        flipped.append(mirrored)
    assert flipped[0] != flipped[1]  # an image is not flipped for good
    assert torch.equal(mixed[0], torch.cat(list(batches.shuffled(images, 20, 3, 1, flip=True))))


def test_flips_reach_the_training(small: Small, bars: Bars) -> None:
    losses = []
    for flip in (False, True):
        images = np.ascontiguousarray(bars(40)[..., ::-1])
        images[..., :14] = 0  # all on the right, so that a mirror image is another image
        state = training.start(small("ae", flip=flip, epochs=1), 0, (1, 28, 28), torch.device("cpu"))
        losses += [epoch.row for epoch in training.run(state, images, images[:5], PROGRESS, None)]
    assert losses[0] != losses[1]


def test_pixels_go_to_floats_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert batches.to_float(every).tolist() == [np.float32(value) / np.float32(255) for value in range(256)]
    assert torch.equal(batches.to_uint8(batches.to_float(every)), every)
    assert batches.to_uint8(torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 1.7])).tolist() == [0, 0, 1, 255]
    assert [len(batch) for batch in batches.in_order(every, 100)] == [100, 100, 56]


# Stopped runs.


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    model: str, stop: int, small: Small, bars: Bars, tmp_path: Path
) -> None:
    settings = small(model, epochs=4, **KINDS[model])
    expected = trained(settings, bars, tmp_path / "undisturbed")
    assert (b'"best_epoch' in expected["model"].replace(b"\\", b"")) == (model == "gan")
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=stop)
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        state = training.start(settings, 0, SHAPE, CPU)
        rest = advance(state, bars, keeper)
        assert outputs(state, tmp_path / "resumed") == expected
        assert [epoch.number for epoch in rest] == list(range(stop + 1, 5))
        assert state.seconds > sum(epoch.seconds for epoch in rest)  # the first process counts too
        assert len(list(keeper.folder.glob("epoch-*.safetensors"))) == 2

        # Stopped after the last epoch, before its model was written.
        state = training.start(settings, 0, SHAPE, CPU)
        assert advance(state, bars, keeper) == []
        assert outputs(state, tmp_path / "again") == expected
        keeper.discard()
        assert not keeper.folder.exists()


def test_a_fused_optimizer_goes_on_where_channels_are_last(small: Small, bars: Bars, tmp_path: Path) -> None:
    """It goes through weights and moments as they lie in memory, which a state does not tell."""
    settings = small("bernoulli_vae", epochs=2, width=4)
    expected = trained(settings, bars, tmp_path / "undisturbed")
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=1)
        state = training.start(settings, 0, SHAPE, CPU)
        advance(state, bars, keeper)
    assert outputs(state, tmp_path / "resumed") == expected


_VICTIM = """
import sys
import warnings
from pathlib import Path
import numpy as np, torch
from genlib import objectives, training
from genlib.checkpoint import Keeper
from genlib.settings import ProgressSettings
sys.path.insert(0, "tests")
from test_training import judge_of
torch.set_num_threads(1)
work, settings, images = Path(sys.argv[1]), sys.argv[2], np.load(sys.argv[3])
gan = objectives.get("gan")
state = training.start(gan.Settings.model_validate_json(settings), 0, (1, 28, 28), torch.device("cpu"))
step, done = gan.train_step, []
def hanging(*arguments):
    done.append(1)
    if len(done) == 8:  # the second step of the third epoch
        print("there", flush=True)
        sys.stdin.read()
    return step(*arguments)
gan.train_step = hanging
progress = ProgressSettings(frames=4, images=5, codes=7, rows_per_epoch=2, judged=8)
with Keeper(work, {"test": 1}) as keeper:
    list(training.run(state, images[:34], images[34:], progress, keeper, judge_of(images[34:])))
"""


def test_a_killed_process_loses_only_its_epoch(small: Small, bars: Bars, tmp_path: Path) -> None:
    settings = small("gan", epochs=4, **KINDS["gan"])
    expected = trained(settings, bars, tmp_path / "undisturbed")
    np.save(tmp_path / "images.npy", bars(COUNT + HELD_OUT))
    paths = str(tmp_path / "work"), str(tmp_path / "images.npy")
    command = [sys.executable, "-c", _VICTIM, paths[0], settings.model_dump_json(), paths[1]]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        try:
            assert victim.stdout.readline() == "there\n"
            with pytest.raises(GenlibError, match=r"another process \(pid \d+\) is training this run") as caught:
                Keeper(tmp_path / "work", IDENTITY).__enter__()
            assert "\n" not in str(caught.value)
        finally:
            victim.kill()
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        state = training.start(settings, 0, SHAPE, CPU)
        assert [epoch.number for epoch in advance(state, bars, keeper)] == [3, 4]
    assert outputs(state, tmp_path / "resumed") == expected


def test_a_state_of_other_settings_is_not_used(small: Small, bars: Bars, tmp_path: Path) -> None:
    with Keeper(tmp_path, IDENTITY) as keeper:
        advance(training.start(small("ae"), 0, SHAPE, CPU), bars, keeper, epochs=1)
        kept = next(keeper.folder.glob("epoch-*.safetensors"))
    with Keeper(tmp_path, {"test": 2}) as keeper:
        state = training.start(small("ae"), 0, SHAPE, CPU)
        keeper.restore(state)
        assert state.epoch == 0
        keeper.folder.mkdir()
        (keeper.folder / kept.name).write_bytes(kept.read_bytes())  # even if it lies in the wrong folder
        keeper.restore(state)
        assert state.epoch == 0
    assert kept.exists()


def test_the_identity_is_all_that_decides_the_result(small: Small, progress: ProgressSettings) -> None:
    data = {"train.npy": "1"}

    def print_of(
        settings: RunSettings,
        seed: int = 0,
        threads: int = 1,
        data: dict[str, str] = data,
        frames: int = 4,
        network: str | None = None,
    ) -> str:
        recorded = progress.model_copy(update={"frames": frames})
        return Keeper(Path(), checkpoint.identity(settings, seed, threads, recorded, data, CPU, network)).fingerprint

    same = print_of(small("gan"))
    assert print_of(small("gan")) == same
    others = [
        print_of(small("gan", lr=0.5)),
        print_of(small("gan", epochs=9)),
        print_of(small("vae")),
        print_of(small("gan"), seed=1),
        print_of(small("gan"), threads=2),
        print_of(small("gan"), data={"train.npy": "2"}),
        print_of(small("gan"), frames=5),
        print_of(small("gan"), network="1"),
        print_of(small("gan"), network="2"),
    ]
    assert len({same, *others}) == 10


def damages(good: bytes) -> dict[str, bytes]:
    flipped = bytearray(good)
    flipped[-100] ^= 1
    return {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "short": good[:-1],
        "zeros": bytes(len(good)),
        "one bit": bytes(flipped),
        "page": b"<html>",
    }


DAMAGES = list(damages(bytes(200)))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_said_and_the_one_before_is_used(
    damage: str, small: Small, bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small("ae", epochs=4)
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=3)
        newest = max(keeper.folder.glob("epoch-*.safetensors"))
        newest.write_bytes(damages(newest.read_bytes())[damage])
        state = training.start(settings, 0, SHAPE, CPU)
        assert [epoch.number for epoch in advance(state, bars, keeper)] == [3, 4]
    [warning] = capsys.readouterr().err.strip().splitlines()
    assert warning.startswith(f"warning: {newest} is damaged")
    assert outputs(state, tmp_path / "resumed") == trained(settings, bars, tmp_path / "undisturbed")


def spoilt(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> None:
    """Change tensors and metadata of a state, and make its checksum fit again, as a stranger could."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["genlib"])
    change(tensors, metadata)
    content = save(tensors, metadata={"genlib": json.dumps(metadata)})
    path.write_bytes(content)
    path.with_suffix(".sha256").write_text(sha256(content).hexdigest())


SPOILT: dict[str, Callable[[dict[str, Tensor], dict[str, Any]], object]] = {
    "of another training": lambda tensors, metadata: metadata.update(fingerprint="0"),
    "a tensor less": lambda tensors, metadata: tensors.pop(min(name for name in tensors if "networks" in name)),
    "a tensor more": lambda tensors, metadata: tensors.update({"networks.encoder.x": torch.zeros(1)}),
    "another shape": lambda tensors, metadata: tensors.update(
        {name: tensor[:1] for name, tensor in tensors.items() if name.endswith("weight") and tensor.ndim == 4}
    ),
    "another type": lambda tensors, metadata: tensors.update(
        {name: tensor.double() for name, tensor in tensors.items() if name.endswith("weight")}
    ),
    "no moments": lambda tensors, metadata: [tensors.pop(name) for name in list(tensors) if "optimizers" in name],
    "other moments": lambda tensors, metadata: tensors.update(
        {name: torch.zeros(3) for name in tensors if name.endswith("exp_avg")}
    ),
    "a best that is none": lambda tensors, metadata: metadata.update(best_epoch=1),
    "too many epochs": lambda tensors, metadata: metadata.update(epoch=999),
    "no history": lambda tensors, metadata: metadata.update(history=[]),
    "not a number": lambda tensors, metadata: metadata["history"][0].update(epoch=float("nan")),
    "an unknown key": lambda tensors, metadata: metadata.update(surprise=1),
    "no groups": lambda tensors, metadata: metadata.update(groups={}),
}


@pytest.mark.parametrize("change", SPOILT)
def test_a_state_that_does_not_fit_is_refused_though_its_checksum_does(
    change: str, small: Small, bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small("ae", epochs=3)
    with Keeper(tmp_path, IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=1)
        [path] = keeper.folder.glob("epoch-*.safetensors")
        spoilt(path, SPOILT[change])
        state = training.start(settings, 0, SHAPE, CPU)
        before = {name: tensor.clone() for name, tensor in state.networks["encoder"].state_dict().items()}
        keeper.restore(state)
        assert state.epoch == 0
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.networks["encoder"].state_dict().items())
    assert "is damaged" in capsys.readouterr().err


def test_a_stopped_training_of_other_settings_is_mentioned(
    small: Small, bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Keeper(tmp_path, {"other": 1}) as keeper:
        advance(training.start(small("ae"), 0, SHAPE, CPU), bars, keeper, epochs=1)
        name = keeper.folder.name
    with Keeper(tmp_path, IDENTITY) as keeper:
        keeper.restore(training.start(small("ae"), 0, SHAPE, CPU))
    said = capsys.readouterr().err
    assert "not gone on with" in said
    assert name in said


def test_all_states_damaged_is_a_fresh_start(small: Small, bars: Bars, tmp_path: Path) -> None:
    settings = small("ae", epochs=3)
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=2)
        for path in keeper.folder.glob("epoch-*.safetensors"):
            path.write_bytes(path.read_bytes()[:100])
        state = training.start(settings, 0, SHAPE, CPU)
        assert len(advance(state, bars, keeper)) == 3
    assert outputs(state, tmp_path / "resumed") == trained(settings, bars, tmp_path / "undisturbed")


def test_a_lock_is_released(tmp_path: Path) -> None:
    with Keeper(tmp_path, IDENTITY), pytest.raises(GenlibError, match="another process"), Keeper(tmp_path, {"o": 1}):
        pass
    with pytest.raises(ZeroDivisionError), Keeper(tmp_path, IDENTITY):
        raise ZeroDivisionError
    with Keeper(tmp_path, IDENTITY):
        pass


def test_a_note_is_kept_until_the_run_is_done(tmp_path: Path) -> None:
    with Keeper(tmp_path, IDENTITY) as keeper:
        assert keeper.note() is None
        keeper.note("abc")
    with Keeper(tmp_path, IDENTITY) as keeper:
        assert keeper.note() == "abc"
        keeper.discard()
        assert keeper.note() is None


# What goes wrong.


def test_a_diverging_run_stops_with_one_line(small: Small, bars: Bars) -> None:
    state = training.start(small("vae", lr=1e30), 0, SHAPE, CPU)
    with pytest.raises(GenlibError, match=r"loss \w+ is (nan|inf) at epoch 1, step 2; .*lower lr") as caught:
        advance(state, bars)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [4, 5, 6])
def test_the_last_good_state_outlives_a_loss_that_is_not_finite(
    bad: float, step: int, small: Small, bars: Bars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ae = objectives.get("ae")
    settings, original, calls = small("ae", epochs=3), ae.train_step, []

    def spoiled(*arguments: Any) -> Any:
        losses = original(*arguments)
        calls.append(1)
        return {name: loss * bad for name, loss in losses.items()} if len(calls) == step else losses

    expected = trained(settings, bars, tmp_path / "undisturbed")
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        with monkeypatch.context() as patch:
            patch.setattr(ae, "train_step", spoiled)
            with pytest.raises(GenlibError, match=f"loss generation is {bad} at epoch 2, step {step};"):
                advance(training.start(settings, 0, SHAPE, CPU), bars, keeper)
        assert [path.stem for path in keeper.folder.glob("*.safetensors")] == ["epoch-00001"]
        state = training.start(settings, 0, SHAPE, CPU)
        assert len(advance(state, bars, keeper)) == 2
    assert outputs(state, tmp_path / "resumed") == expected


def test_a_heldout_loss_that_is_not_finite_is_named(
    small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ae = objectives.get("ae")
    original = ae.heldout_losses

    def spoiled(*arguments: Any) -> Any:
        losses = original(*arguments)
        return losses if torch.is_grad_enabled() else {name: loss * float("nan") for name, loss in losses.items()}

    monkeypatch.setattr(ae, "heldout_losses", spoiled)
    with (
        Keeper(tmp_path, IDENTITY) as keeper,
        pytest.raises(GenlibError, match="loss generation is nan at epoch 1, held-out images"),
    ):
        advance(training.start(small("ae"), 0, SHAPE, CPU), bars, keeper)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_batch_larger_than_the_set_is_refused(small: Small, bars: Bars) -> None:
    with pytest.raises(GenlibError, match="batch_size: 35 is more than the 34 training images; lower it"):
        advance(training.start(small("ae", batch_size=35), 0, SHAPE, CPU), bars)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_the_cpu_lacks_is_refused(
    precision: str, small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False})
    with pytest.raises(GenlibError, match=f"precision: {precision} needs a CUDA device.*set precision: float32"):
        advance(training.start(small("ae", precision=precision), 0, SHAPE, CPU), bars)


@pytest.mark.parametrize("model", ["ae", "vae", "gan", "bernoulli_vae"])
def test_bf16_on_a_cpu_trains_close_to_float32(
    model: str, small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the three digits of bf16 while weights move a lot, and with losses that have more digits than that."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})  # imitated where it is missing
    losses = {}
    for precision in ("float32", "bf16"):
        state = training.start(small(model, precision=precision, epochs=6, lr=0.004), 0, SHAPE, CPU)
        rows = [row for epoch in advance(state, bars) for row in epoch.steps]
        losses[precision] = [row[name] for row in rows for name in state.objective.LOSSES[:2]]
        assert all(weight.dtype == torch.float32 for weight in state.networks[state.objective.DRAWS].parameters())
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.1, abs=0.1)
    assert losses["bf16"] != losses["float32"]
    assert any(torch.tensor(loss).bfloat16().item() != pytest.approx(loss, rel=1e-6) for loss in losses["bf16"])


def test_bfloat16_sees_weights_that_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its context is held for an epoch; what it does to a GPU's networks is tried on a CPU's."""
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda _, *how, **more: autocast("cpu", *how, **more))
    weight, images = nn.Parameter(torch.ones(1, 1)), torch.ones(1, 1)
    with device.set_precision("bf16", torch.device("cuda")):
        assert F.linear(images, weight).dtype == torch.bfloat16
        with torch.no_grad():
            weight.fill_(3.0)
        assert F.linear(images, weight) == 3


def test_on_a_cpu_the_array_is_read_where_it_lies(
    tmp_path: Path, small: Small, progress: ProgressSettings, bars: Bars
) -> None:
    """A read-only memory map is trained from without a copy of it, to the same weights, and without a warning."""
    np.save(tmp_path / "train.npy", bars(40))
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert batches.resident(mapped, CPU).data_ptr() == mapped.ctypes.data
    ended = []
    for images in (mapped, bars(40)):
        state = training.start(small("ae"), 0, SHAPE, CPU)
        list(training.run(state, images, bars(10), progress, None))
        ended.append(state.networks["decoder"].state_dict())
    assert all(torch.equal(value, ended[1][name]) for name, value in ended[0].items())
    np.testing.assert_array_equal(mapped, bars(40))
