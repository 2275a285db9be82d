"""The presentation's networks for images of 28 x 28.

Where it is silent, they follow the public TensorFlow CVAE and DCGAN tutorials: "same" padding in transposed
convolutions and in the discriminator, batch norm without biases in the generator, and their Glorot uniform weights
(Glorot & Bengio 2010) with biases of 0. `width` scales all channels; at 32 (encoder, decoder) and 64 (generator,
discriminator) they are the presentation's.
"""

import torch
from torch import nn

from genlib.errors import GenlibError
from genlib.nets import Shape
from genlib.nets.layers import Conv2d, ConvTranspose2d, Dropout, Reshape, activation


def encoder(shape: Shape, width: int, outputs: int) -> nn.Module:
    """Two strided convolutions without padding (28 -> 13 -> 6), then a dense layer: B C 28 28 to B x outputs."""
    return _channels_last(
        nn.Sequential(
            Conv2d(_channels(shape), width, 3, stride=2),
            nn.ReLU(inplace=True),
            Conv2d(width, 2 * width, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(2 * width * 6 * 6, outputs),
        )
    )


def decoder(shape: Shape, width: int, latent_dim: int, output: str) -> nn.Module:
    """A dense layer, then transposed convolutions 7 -> 14 -> 28 -> 28: B Z to B C 28 28."""
    return _channels_last(
        nn.Sequential(
            nn.Linear(latent_dim, 7 * 7 * width),
            nn.ReLU(inplace=True),
            Reshape(width, 7, 7),
            ConvTranspose2d(width, 2 * width, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(inplace=True),
            ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(inplace=True),
            ConvTranspose2d(width, _channels(shape), 3, padding=1),
            activation(output),
        )
    )


def generator(shape: Shape, width: int, latent_dim: int, leaky_slope: float) -> nn.Module:
    """A dense layer, then transposed convolutions 7 -> 7 -> 14 -> 28: B Z to B C 28 28 in -1..1."""
    return _glorot(
        nn.Sequential(
            nn.Linear(latent_dim, 7 * 7 * 4 * width, bias=False),
            nn.BatchNorm1d(7 * 7 * 4 * width),
            nn.LeakyReLU(leaky_slope, inplace=True),
            Reshape(4 * width, 7, 7),
            ConvTranspose2d(4 * width, 2 * width, 5, padding=2, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(leaky_slope, inplace=True),
            ConvTranspose2d(2 * width, width, 5, stride=2, padding=2, output_padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(leaky_slope, inplace=True),
            ConvTranspose2d(width, _channels(shape), 5, stride=2, padding=2, output_padding=1, bias=False),
            nn.Tanh(),
        )
    )


def discriminator(shape: Shape, width: int, leaky_slope: float, dropout: float) -> nn.Module:
    """Two strided convolutions 28 -> 14 -> 7, then one output: B C 28 28 in -1..1 to logits B."""
    return _glorot(
        nn.Sequential(
            Conv2d(_channels(shape), width, 5, stride=2, padding=2),
            nn.LeakyReLU(leaky_slope, inplace=True),
            Dropout(dropout),
            Conv2d(width, 2 * width, 5, stride=2, padding=2),
            nn.LeakyReLU(leaky_slope, inplace=True),
            Dropout(dropout),
            nn.Flatten(),
            nn.Linear(2 * width * 7 * 7, 1),
            Reshape(),
        )
    )


def _channels(shape: Shape) -> int:
    if shape[1:] != (28, 28):
        raise GenlibError(
            f"net deck28 draws images of 28 x 28, the dataset's are {shape[1]} x {shape[2]}; "
            "set data.<dataset>.image_size to 28 or choose another net"
        )
    return shape[0]


def _glorot(network: nn.Sequential) -> nn.Sequential:
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def _channels_last(network: nn.Sequential) -> nn.Sequential:
    """Glorot's weights, in the order in memory in which an autoencoder's convolutions are fastest on CPUs.

    For the kernels of 5 of generator and discriminator it makes no difference.
    """
    return _glorot(network).to(memory_format=torch.channels_last)
