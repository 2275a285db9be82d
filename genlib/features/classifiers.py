"""The networks that measure: a plain one for small images, a residual one for colour images of 32 pixels and more."""

from torch import Tensor, nn
from torch.nn import functional as F

from genlib.errors import GenlibError

_DROPOUT = 0.3
_SMALLEST = 32  # four halvings leave 2 x 2


class Classifier(nn.Module):
    """Images B C H W (float32 in 0..1) to features B D, none negative, to logits B K.

    `sizes`: what `build` has to be told again to make the same network: channels, size, width.
    """

    def __init__(self, features: nn.Module, head: nn.Module, channels: int, size: int, width: int) -> None:
        super().__init__()
        self.sizes = {"channels": channels, "size": size, "width": width}
        self.features = features
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def names() -> tuple[str, ...]:
    """The names that `build` knows."""
    return "plain", "residual"


def build(net: str, channels: int, size: int, outputs: int, width: int) -> Classifier:
    """A network with fresh weights for images C x size x size and `outputs` classes or attributes.

    `width`: channels of its first layer. Raises GenlibError for an unknown `net` and for images too small for it.
    """
    if net == "plain":
        return Classifier(_plain(channels, size, width), nn.Linear(4 * width, outputs), channels, size, width)
    if net != "residual":
        raise GenlibError(f"features.<dataset>.net: {net!r} is not one of {', '.join(names())}; change it")
    if size < _SMALLEST:
        raise GenlibError(
            f"features.<dataset>.net: residual halves images four times, and {size} x {size} is too small for that; "
            f"use plain, or images of at least {_SMALLEST} x {_SMALLEST}"
        )
    return Classifier(_residual(channels, width), nn.Linear(8 * width, outputs), channels, size, width)


def _plain(channels: int, size: int, width: int) -> nn.Sequential:
    """Four 3 x 3 convolutions with batch norm, the second and fourth halving the image; a dense layer of 4*width."""
    return nn.Sequential(
        *_block(channels, width, stride=1),
        *_block(width, width, stride=2),
        *_block(width, 2 * width, stride=1),
        *_block(2 * width, 2 * width, stride=2),
        nn.Flatten(),
        nn.Dropout(_DROPOUT),
        nn.Linear(2 * width * (-(-size // 4)) ** 2, 4 * width),
        nn.ReLU(),
    )


def _residual(channels: int, width: int) -> nn.Sequential:
    """A convolution and four residual blocks, all but the first halving the image; means of 8*width maps."""
    return nn.Sequential(
        *_block(channels, width, stride=2),
        ResidualBlock(width, width, stride=1),
        ResidualBlock(width, 2 * width, stride=2),
        ResidualBlock(2 * width, 4 * width, stride=2),
        ResidualBlock(4 * width, 8 * width, stride=2),
        GlobalMean(),
        nn.Dropout(_DROPOUT),
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, a 1 x 1 one where the shape changes (He et al. 2016, fig. 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_block(inputs, outputs, stride),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.convolutions(maps) + self.shortcut(maps))


class GlobalMean(nn.Module):
    """Maps B C H W to their means B C. Adaptive average pooling does the same, but its CUDA gradient varies."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
