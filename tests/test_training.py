"""The training loop: what it computes, what it records, that equal runs are equal, and what goes wrong."""

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from trainings import COUNT, CPU, HELD_OUT, IDENTITY, KINDS, PROGRESS, SHAPE, Bars, Small, advance, outputs, trained

from genlib import models, objectives, rng, training
from genlib.checkpoint import Keeper
from genlib.errors import GenlibError
from genlib.settings import ProgressSettings
from genlib.training import history

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(content.decode().splitlines()))


# What is computed.


def test_every_epoch_has_an_order_sides_noise_and_dropout_of_its_own(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    gan, seed = objectives.get("gan"), 3
    seeds, seen = [], []

    def step(_: Any, __: Any, images: torch.Tensor, noise: torch.Generator, ___: Any) -> dict[str, torch.Tensor]:
        seeds.append((noise.initial_seed(), torch.initial_seed()))
        seen.append(images.clone())
        return dict.fromkeys(gan.LOSSES, torch.zeros(()))

    monkeypatch.setattr(gan, "train_step", step)
    images = np.random.default_rng(0).integers(0, 256, (30, *SHAPE), dtype=np.uint8)
    settings = small("gan", epochs=2, batch_size=10, flip=True)
    list(training.run(training.start(settings, seed, SHAPE, CPU), images, images, PROGRESS, None))
    expected = [(rng.derive(seed, "noise", epoch), rng.derive(seed, "dropout", epoch)) for epoch in (1, 2)]
    assert seeds == [expected[0]] * 3 + [expected[1]] * 3
    floats, turned = torch.from_numpy(images) / 255, []
    for epoch in (1, 2):
        order = torch.randperm(30, generator=rng.generator(seed, "order", epoch))
        shown = torch.cat(seen[3 * epoch - 3 : 3 * epoch])[order.argsort()]  # as they lie in the set
        turned.append((shown != floats).flatten(1).any(1))
        assert torch.equal(shown, torch.where(turned[-1][:, None, None, None], floats.flip(3), floats))
    assert not torch.equal(turned[0], turned[1])


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
