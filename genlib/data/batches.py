"""What training draws from: splits resident on the device as uint8 where they fit, gathered and converted there."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from genlib import rng
from genlib.data.arrays import Images
from genlib.data.streaming import Streamed, free_bytes, on_host

RESIDENT_SHARE = 0.5
"""Splits that take more than this share of a device's free memory are streamed."""


def placed(splits: Sequence[Images], device: torch.device, say: bool = True) -> list[Tensor | Streamed]:
    """The splits on the device or, if all together do not fit, streamed to it, which is said in one line.

    What is drawn from them is the same, to the byte.
    """
    needed, free = sum(images.nbytes for images in splits), free_bytes(device)
    if needed <= RESIDENT_SHARE * free:
        return [resident(images, device) for images in splits]
    if say:
        print(
            f"images of {needed / 1e9:.2f} GB are more than {RESIDENT_SHARE:.0%} of the {free / 1e9:.2f} GB that are "
            f"free on {device}: they are read from the disk while training goes on",
            flush=True,
        )
    return [Streamed(images, device) for images in splits]


def resident(images: Images, device: torch.device) -> Tensor:
    """The images on the device, uint8 N C H W, to be read only: on a CPU the array itself, elsewhere a copy."""
    if device.type != "cpu":
        return torch.from_numpy(np.array(images)).to(device)
    return on_host(images)


def to_float(images: Tensor) -> Tensor:
    """uint8 to float32 in 0..1."""
    return images.to(torch.float32).div_(255)


def to_uint8(images: Tensor) -> Tensor:
    """Float in 0..1 to uint8, rounded to nearest."""
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


def shuffled(
    images: Tensor | Streamed,
    batch_size: int,
    seed: int,
    epoch: int,
    flip: bool = False,
    rows: slice = slice(None),
) -> Generator[Tensor]:
    """The images once, in an order that depends on (seed, epoch) only; float32 in 0..1, batch_size C H W.

    Channels are last in memory, as in the networks: these would lay out every batch anew, each time they read it.
    The incomplete last batch is left out (another one each epoch): batch norm behaves badly on a few images.
    `flip`: each image is mirrored left to right with probability 1/2, which depends on (seed, epoch) only, too.
    `rows`: of each batch, only these.
    """
    count = len(images) // batch_size
    order = torch.randperm(len(images), generator=rng.generator(seed, "order", epoch))
    order = order[: count * batch_size].view(count, batch_size)[:, rows]
    sides = None
    if flip:
        mirrored = torch.rand(len(images), generator=rng.generator(seed, "flips", epoch)).lt(0.5)[order]
        own = order.shape[1]
        sides = (own * mirrored + torch.arange(own)).to(images.device)  # of a batch, followed by its mirror images
    with closing(_gathered(images, order)) as batches:
        for index, batch in enumerate(batches):
            if sides is not None:
                batch = torch.cat([batch, batch.flip(3)]).index_select(0, sides[index])
            yield to_float(batch.contiguous(memory_format=torch.channels_last))


def _gathered(images: Tensor | Streamed, order: Tensor) -> Generator[Tensor]:
    """For each row of indices, the images that it names."""
    if isinstance(images, Streamed):
        yield from images.gathered(order)
    else:
        for chosen in order.to(images.device):
            yield images.index_select(0, chosen)


def in_order(images: Tensor | Streamed, batch_size: int) -> Iterator[Tensor]:
    """All the images in their order; float32 in 0..1, the last batch may be smaller."""
    for start in range(0, len(images), batch_size):
        yield to_float(images[start : start + batch_size])
