"""Batches: their order, mirrored images, bytes as floats and back, and no copy of an array on a CPU."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import CPU, PROGRESS, SHAPE, Bars, Small

from genlib import training
from genlib.data import batches
from genlib.settings import ProgressSettings

pytestmark = pytest.mark.usefixtures("one_thread")


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
