"""The DCGAN and the VAE of its depth: shapes at every size, the paper's rules, numbers worked out by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from genlib import rng
from genlib.errors import GenlibError
from genlib.nets import dcgan
from genlib.training.history import describe

SIZES = (32, 64, 128)
WIDTH = 4


def kinds(network: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in network.children()]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_images_go_in_and_come_out(size: int, channels: int) -> None:
    shape = (channels, size, size)
    codes, images = rng.latents(3, 7, 0, "test"), torch.rand(3, *shape)
    assert dcgan.encoder(shape, WIDTH, 14)(images).shape == (3, 14)
    assert dcgan.discriminator(shape, WIDTH, 0.2, 0.0)(images).shape == (3,)
    generated = dcgan.generator(shape, WIDTH, 7, 0.2)(codes)
    assert generated.shape == (3, *shape)
    assert -1 <= generated.min() < 0 < generated.max() <= 1
    decoded = dcgan.decoder(shape, WIDTH, 7, "sigmoid")(codes)
    assert decoded.shape == (3, *shape)
    assert 0 <= decoded.min() < 0.5 < decoded.max() <= 1


def test_parameters_of_the_generator_of_the_paper() -> None:
    """Radford et al. 2015, figure 1: 100 numbers, 4 x 4 x 1024, 512, 256, 128, 64 x 64 x 3."""
    [description] = describe({"generator": dcgan.generator((3, 64, 64), 128, 100, 0.2)}, {"generator": (100,)})
    outputs = [row["output"] for row in description["layers"] if row["type"] in ("Reshape", "ConvTranspose2d")]
    assert outputs == [[1024, 4, 4], [512, 8, 8], [256, 16, 16], [128, 32, 32], [3, 64, 64]]
    weights = 100 * 1024 * 16 + 16 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
    assert description["parameters"] == weights + 2 * (1024 + 512 + 256 + 128) + 3


@pytest.mark.parametrize(("size", "depth"), [(32, 3), (64, 4), (128, 5)])
def test_channels_double_with_every_halving(size: int, depth: int) -> None:
    widths = [WIDTH * 2**level for level in range(depth)]
    network = dcgan.discriminator((3, size, size), WIDTH, 0.2, 0.0)
    found = [layer.out_channels for layer in network.children() if isinstance(layer, nn.Conv2d)]
    assert found == [*widths, 1]
    network = dcgan.encoder((3, size, size), WIDTH, 5)
    assert [layer.out_channels for layer in network.children() if isinstance(layer, nn.Conv2d)] == widths


def test_the_rules_of_the_paper() -> None:
    generator = dcgan.generator((3, 64, 64), WIDTH, 7, 0.2)
    discriminator = dcgan.discriminator((3, 64, 64), WIDTH, 0.2, 0.0)
    assert not [kind for kind in kinds(generator) + kinds(discriminator) if "Pool" in kind or kind == "Dropout"]
    # Batch norm everywhere but at the generator's output and the discriminator's input; ReLU here, leaky ReLU there.
    assert kinds(generator)[2:4] == ["BatchNorm2d", "ReLU"]
    assert kinds(generator)[-2:] == ["ConvTranspose2d", "Tanh"]
    assert kinds(generator)[4:-2] == ["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 3
    assert kinds(discriminator)[:2] == ["Conv2d", "LeakyReLU"]
    assert kinds(discriminator)[2:-2] == ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3
    slopes = {layer.negative_slope for layer in discriminator.children() if isinstance(layer, nn.LeakyReLU)}
    assert slopes == {0.2}


def test_weights_are_drawn_around_zero_with_deviation_002() -> None:
    with rng.default_generators(0, "test"):
        network = dcgan.generator((3, 64, 64), 16, 50, 0.2)
    for layer in network.children():
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d) and layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(layer.weight.mean().item()) < 0.002
    scales = torch.cat([layer.weight.detach() for layer in network.children() if isinstance(layer, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1.0, abs=0.01)
    assert scales.std().item() == pytest.approx(0.02, rel=0.25)


def test_dropout_is_there_when_asked_for() -> None:
    network = dcgan.discriminator((3, 32, 32), WIDTH, 0.2, 0.25)
    assert [layer.p for layer in network.children() if isinstance(layer, nn.Dropout)] == [0.25] * 3


def test_the_order_in_memory_changes_no_result() -> None:
    """The networks keep channels last; the same weights in the usual order give the same logits."""
    with rng.default_generators(0, "test"):
        network = dcgan.discriminator((3, 32, 32), WIDTH, 0.2, 0.0).eval()
    images = torch.rand(5, 3, 32, 32, generator=rng.generator(0, "images"))
    expected = network(images)
    assert torch.allclose(network.to(memory_format=torch.contiguous_format)(images), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 48, 48), (1, 28, 28), (3, 64, 32), (3, 256, 256)])
def test_another_size_is_refused(shape: tuple[int, int, int]) -> None:
    message = (
        rf"dcgan draws .* 32, 64, 128 pixels a side, the dataset's are {shape[1]} x {shape[2]}; set data.* or choose"
    )
    builds: list[Callable[[], nn.Module]] = [
        lambda: dcgan.encoder(shape, 2, 3),
        lambda: dcgan.decoder(shape, 2, 3, "relu"),
        lambda: dcgan.generator(shape, 2, 3, 0.3),
        lambda: dcgan.discriminator(shape, 2, 0.3, 0.3),
    ]
    for build in builds:
        with pytest.raises(GenlibError, match=message):
            build()
