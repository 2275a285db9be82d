"""Exponential moving average of a network's weights."""

import torch
from torch import nn

from genlib.errors import GenlibError

RAMP_UP = 0.2
"""The half-life is never more than this share of the images seen (Karras et al. 2022, EDM, `ema_rampup_ratio`: 0.05,
for trainings a thousand times as long; over 50,000 faces, 0.2 draws them clearly smoother).
"""


def decay(batch_images: int, halflife_images: float, images_seen: int) -> float:
    """The weight that the average keeps in a step of `batch_images` images, the last of `images_seen` so far.

    After `halflife_images` more images, what the average holds now weighs half. Early in training the half-life is
    shorter, so that the first weights, which are noise, do not outlive a short training.
    """
    return float(0.5 ** (batch_images / min(halflife_images, RAMP_UP * images_seen)))


@torch.no_grad()
def average_into(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """averaged = decay * averaged + (1 - decay) * network for parameters; buffers (batch norm) are copied.

    Raises GenlibError if the two do not have the same parameters and buffers.
    """
    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
    own, own_buffers = dict(averaged.named_parameters()), dict(averaged.named_buffers())
    if own.keys() != parameters.keys() or own_buffers.keys() != buffers.keys():
        raise GenlibError("the averaged network is not built like the one it averages; build both from one settings")
    torch._foreach_lerp_(list(own.values()), [parameters[name] for name in own], 1 - decay)
    for name, buffer in own_buffers.items():
        buffer.copy_(buffers[name])
