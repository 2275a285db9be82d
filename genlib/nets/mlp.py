"""Dense networks with one hidden layer, on the pixels of an image as one vector; for images of any size.

The networks of Kingma & Welling 2013 (section 5), with ReLU. `width` counts the units of the hidden layer. Weights are
torch's own: uniform within 1 / sqrt(inputs) of 0.
"""

from math import prod

from torch import nn

from genlib.nets import Shape
from genlib.nets.layers import Dropout, Reshape, activation


def encoder(shape: Shape, width: int, outputs: int) -> nn.Module:
    """A hidden layer with ReLU: B C H W to B x outputs."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), width), nn.ReLU(inplace=True), nn.Linear(width, outputs))


def decoder(shape: Shape, width: int, latent_dim: int, output: str) -> nn.Module:
    """A hidden layer with ReLU, `output` as last activation: B Z to B C H W."""
    return nn.Sequential(
        nn.Linear(latent_dim, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, prod(shape)),
        Reshape(*shape),
        activation(output),
    )


def generator(shape: Shape, width: int, latent_dim: int, leaky_slope: float) -> nn.Module:
    """A hidden layer: B Z to B C H W in -1..1."""
    return nn.Sequential(
        nn.Linear(latent_dim, width),
        nn.LeakyReLU(leaky_slope, inplace=True),
        nn.Linear(width, prod(shape)),
        Reshape(*shape),
        nn.Tanh(),
    )


def discriminator(shape: Shape, width: int, leaky_slope: float, dropout: float) -> nn.Module:
    """A hidden layer: B C H W in -1..1 to logits B."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape), width),
        nn.LeakyReLU(leaky_slope, inplace=True),
        Dropout(dropout),
        nn.Linear(width, 1),
        Reshape(),
    )
