"""Images that do not fit on the device: the same batches as from those that do, read ahead, in bounded memory."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from genlib import training
from genlib.data import batches, streaming
from genlib.data.streaming import Streamed
from genlib.settings import ProgressSettings, RunSettings

CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(
        torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    ),
]

Small = Callable[..., RunSettings]
Bars = Callable[[int], NDArray[np.uint8]]


@pytest.fixture
def images(tmp_path: Path) -> NDArray[np.uint8]:
    """103 images of random pixels, a read-only memory map."""
    np.save(tmp_path / "train.npy", np.random.default_rng(0).integers(0, 256, (103, 3, 6, 5), np.uint8))
    mapped: NDArray[np.uint8] = np.load(tmp_path / "train.npy", mmap_mode="r")
    return mapped


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("genlib-reader")]


@pytest.fixture(autouse=True)
def no_reader_is_left() -> Iterator[None]:
    yield
    assert readers() == []


def nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "RESIDENT_SHARE", 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [slice(None), slice(4, 8)])
def test_batches_are_those_of_resident_images(images: NDArray[np.uint8], rows: slice, device: torch.device) -> None:
    resident, streamed = batches.resident(images, device), Streamed(images, device)
    for epoch in (1, 2):
        drawn = [list(batches.shuffled(each, 12, 3, epoch, flip=True, rows=rows)) for each in (resident, streamed)]
        assert len(drawn[0]) == len(drawn[1]) == 8
        assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
        assert {batch.device.type for batch in drawn[1]} == {device.type}
        assert list(batches.shuffled(streamed, 104, 3, epoch)) == []  # not one whole batch
    in_order = [list(batches.in_order(each, 40)) for each in (resident, streamed)]
    assert [len(batch) for batch in in_order[1]] == [40, 40, 23]
    assert all(torch.equal(one, other) for one, other in zip(*in_order, strict=True))


def test_a_training_from_streamed_images_gives_the_same_bytes(
    small: Small, progress: ProgressSettings, bars: Bars, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Averaged, so that its batch norm is measured, too, and held-out losses and pictures of 2-D codes."""
    ended = []
    for share in (0.5, 0):
        monkeypatch.setattr(batches, "RESIDENT_SHARE", share)
        state = training.start(small("vae", latent_dim=2, flip=True, ema_halflife_images=15.0), 0, (1, 28, 28), CPU)
        list(training.run(state, bars(34), bars(11), progress, None))
        ended.append((state.networks["decoder"].state_dict(), state.history, state.frames))
        said = capsys.readouterr().out.splitlines()
    [line] = said
    assert line.startswith("images of 0.00 GB are more than 0% of the ")
    assert line.endswith("GB that are free on cpu: they are read from the disk while training goes on")
    (weights, history, frames), others = ended
    assert all(torch.equal(value, others[0][name]) for name, value in weights.items())
    assert history == others[1]
    for kind, pictures in frames.items():
        assert all(torch.equal(one, other) for one, other in zip(pictures, others[2][kind], strict=True))


def test_what_fits_is_resident(images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """All splits or none: together they are 2 x 9,270 bytes."""
    monkeypatch.setattr(batches, "RESIDENT_SHARE", 0.5)
    for free, kind in ((2 * 18_540, Tensor), (2 * 18_540 - 1, Streamed)):
        monkeypatch.setattr(batches, "free_bytes", lambda _, free=free: free)
        assert [type(split) for split in batches.placed((images, images), CPU)] == [kind, kind]
    assert capsys.readouterr().out.count("\n") == 1
    batches.placed((images,), CPU, say=False)
    batches.placed((images, images), CPU, say=False)
    assert capsys.readouterr().out == ""


def test_free_memory_is_between_a_mebibyte_and_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told = streaming.free_bytes(CPU)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as where there is no /proc
    assert 2**20 < told < streaming.free_bytes(CPU) < 2**50


def test_what_stops_the_reader_stops_the_training(images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def gather(self: Streamed, chosen: Tensor) -> Tensor:
        nonlocal read
        read += 1
        if read == 3:
            raise OSError(5, "Input/output error")
        return self._images[chosen]

    monkeypatch.setattr(Streamed, "_gather", gather)
    drawn = batches.shuffled(Streamed(images, CPU), 10, 0, 1)
    assert len(list(islice(drawn, 2))) == 2
    with pytest.raises(OSError, match="Input/output error"):
        next(drawn)


def test_a_loop_that_ends_early_leaves_no_reader(images: NDArray[np.uint8]) -> None:
    drawn = batches.shuffled(Streamed(images, CPU), 10, 0, 1)
    next(drawn)
    assert len(readers()) == 1
    drawn.close()
    assert readers() == []


def test_an_error_in_a_step_ends_the_reader(
    small: Small, progress: ProgressSettings, bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_fits(monkeypatch)
    state = training.start(small("ae"), 0, (1, 28, 28), CPU)
    monkeypatch.setattr(state.objective, "train_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as kept:
        list(training.run(state, bars(40), bars(4), progress, None))
    assert readers() == []
    assert kept.tb is not None  # which holds the frames of the loop


def test_memory_does_not_grow_with_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 batches, those that are read ahead and the one in use are in memory, however slow the training is."""
    gather, there, most = Streamed._gather, WeakSet[Tensor](), 0

    def watched(self: Streamed, chosen: Tensor) -> Tensor:
        images = gather(self, chosen)
        there.add(images)
        return images

    monkeypatch.setattr(Streamed, "_gather", watched)
    np.save(tmp_path / "train.npy", np.zeros((64 * 8, 3, 64, 64), np.uint8))
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    for index, _ in enumerate(batches.shuffled(Streamed(mapped, CPU), 8, 0, 1)):
        time.sleep(0.05 if index == 0 else 0)
        most = max(most, len(there))
    assert index == 63
    assert 2 <= most <= streaming._AHEAD + 1
