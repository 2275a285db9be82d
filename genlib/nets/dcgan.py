"""The DCGAN (Radford et al. 2015) and a convolutional VAE of the same depth, for square images of 32, 64 or 128 pixels.

No pooling and no hidden dense layers: strided convolutions of kernel 4 lead from the image to 4 x 4, transposed ones
back, channels doubling with every halving. `width` counts the channels at the largest hidden size. Batch norm
everywhere but at the generator's output and the discriminator's input; convolutions are drawn from N(0, 0.02).
"""

from itertools import pairwise

import torch
from torch import nn

from genlib.errors import GenlibError
from genlib.nets import Shape
from genlib.nets.layers import Conv2d, ConvTranspose2d, Dropout, Reshape, activation

SIZES = (32, 64, 128)
_INNER = 4  # pixels a side where convolutions end


def encoder(shape: Shape, width: int, outputs: int) -> nn.Module:
    """Strided convolutions to 4 x 4, ReLU, then a dense layer: B C H W to B x outputs."""
    channels = _channels(shape, width)
    layers: list[nn.Module] = []
    for before, after in pairwise([shape[0], *channels]):
        layers += [
            Conv2d(before, after, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return _initialized(nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * _INNER**2, outputs)))


def decoder(shape: Shape, width: int, latent_dim: int, output: str) -> nn.Module:
    """The generator's layers with `output` as last activation: B Z to B C H W."""
    return _initialized(nn.Sequential(*_upwards(shape, width, latent_dim), activation(output)))


def generator(shape: Shape, width: int, latent_dim: int, leaky_slope: float) -> nn.Module:
    """Transposed convolutions from 4 x 4 upwards: B Z to B C H W in -1..1.

    Hidden layers end in ReLU, as the paper has it: `leaky_slope` concerns the discriminator only.
    """
    del leaky_slope
    return _initialized(nn.Sequential(*_upwards(shape, width, latent_dim), nn.Tanh()))


def discriminator(shape: Shape, width: int, leaky_slope: float, dropout: float) -> nn.Module:
    """Strided convolutions to 4 x 4, then one output: B C H W in -1..1 to logits B. The paper has no dropout."""
    channels = _channels(shape, width)
    layers: list[nn.Module] = []
    for before, after in pairwise([shape[0], *channels]):
        layers.append(Conv2d(before, after, 4, stride=2, padding=1, bias=False))
        if layers[1:]:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.LeakyReLU(leaky_slope, inplace=True))
        if dropout > 0:
            layers.append(Dropout(dropout))
    return _initialized(nn.Sequential(*layers, Conv2d(channels[-1], 1, _INNER, bias=False), Reshape()))


def _upwards(shape: Shape, width: int, latent_dim: int) -> list[nn.Module]:
    """From codes B Z to images B C H W, without the last activation."""
    channels = _channels(shape, width)[::-1]
    layers: list[nn.Module] = [
        # A transposed convolution of a 1 x 1 image is this dense layer; its batch norm is one per channel, too.
        nn.Linear(latent_dim, channels[0] * _INNER**2, bias=False),
        Reshape(channels[0], _INNER, _INNER),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(inplace=True),
    ]
    for before, after in pairwise(channels):
        layers += [
            ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return [*layers, ConvTranspose2d(channels[-1], shape[0], 4, stride=2, padding=1)]


def _channels(shape: Shape, width: int) -> list[int]:
    """Channels after each halving of the image down to 4 x 4: width, 2 width, 4 width and so on."""
    if shape[1] != shape[2] or shape[1] not in SIZES:
        raise GenlibError(
            f"net dcgan draws square images of {', '.join(map(str, SIZES))} pixels a side, the dataset's are "
            f"{shape[1]} x {shape[2]}; set data.<dataset>.image_size to one of them or choose another net"
        )
    halvings = (shape[1] // _INNER).bit_length() - 1
    return [width << halving for halving in range(halvings)]


def _initialized(network: nn.Sequential) -> nn.Sequential:
    """Radford et al. 2015, section 4; the scales of batch norm likewise around 1, as in the authors' code."""
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    # The order in memory in which convolutions of many channels are fastest, on CPUs too.
    return network.to(memory_format=torch.channels_last)
