"""A training that is judged: its best checkpoint, whose samples are judged, no trace in its weights, its alarm."""

from pathlib import Path

import pytest
import torch
from trainings import COUNT, CPU, HELD_OUT, IDENTITY, KINDS, PROGRESS, SHAPE, Bars, Small, advance, judge_of, outputs

from genlib import models, rng, training
from genlib.checkpoint import Keeper
from genlib.data import batches
from genlib.training.judging import Judge

pytestmark = pytest.mark.usefixtures("one_thread")


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
