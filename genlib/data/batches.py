"""What training draws from: a split resident on the device as uint8, gathered and converted there."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from genlib import rng
from genlib.data.arrays import Images


def resident(images: Images, device: torch.device) -> Tensor:
    """The images on the device, uint8 N C H W, to be read only: on a CPU the array itself, elsewhere a copy."""
    if device.type != "cpu":
        return torch.from_numpy(np.array(images)).to(device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


def to_float(images: Tensor) -> Tensor:
    """uint8 to float32 in 0..1."""
    return images.to(torch.float32) / 255


def to_uint8(images: Tensor) -> Tensor:
    """Float in 0..1 to uint8, rounded to nearest."""
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


def shuffled(images: Tensor, batch_size: int, seed: int, epoch: int, flip: bool = False) -> Iterator[Tensor]:
    """The images once, in an order that depends on (seed, epoch) only; float32 in 0..1, batch_size C H W.

    The incomplete last batch is left out (another one each epoch): batch norm behaves badly on a few images.
    `flip`: each image is mirrored left to right with probability 1/2, which depends on (seed, epoch) only, too.
    """
    order = torch.randperm(len(images), generator=rng.generator(seed, "order", epoch)).to(images.device)
    flipped = None
    if flip:
        flipped = torch.rand(len(images), generator=rng.generator(seed, "flips", epoch)).lt(0.5).to(images.device)
    for start in range(0, len(images) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        batch = images[chosen]
        if flipped is not None:
            batch = torch.where(flipped[chosen, None, None, None], batch.flip(3), batch)
        yield to_float(batch)


def in_order(images: Tensor, batch_size: int) -> Iterator[Tensor]:
    """All the images in their order; float32 in 0..1, the last batch may be smaller."""
    for start in range(0, len(images), batch_size):
        yield to_float(images[start : start + batch_size])
