"""The presentation's architectures, layer by layer, against numbers worked out by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genlib import nets, rng
from genlib.errors import GenlibError
from genlib.nets import deck28
from genlib.training.history import describe

SHAPE = (1, 28, 28)


def described(network: nn.Module, *shape: int) -> dict[str, Any]:
    [description] = describe({"it": network}, {"it": shape})
    return description


def rows(description: dict[str, Any], *types: str) -> list[tuple[str, list[int], int]]:
    return [(row["type"], row["output"], row["parameters"]) for row in description["layers"] if row["type"] in types]


def test_the_encoder_is_the_presentations() -> None:
    description = described(deck28.encoder(SHAPE, 32, outputs=2 * 20), *SHAPE)
    assert rows(description, "Conv2d", "Linear", "Flatten") == [
        ("Conv2d", [32, 13, 13], 32 * 9 + 32),
        ("Conv2d", [64, 6, 6], 64 * 32 * 9 + 64),
        ("Flatten", [2304], 0),
        ("Linear", [40], 2304 * 40 + 40),
    ]
    assert (description["input"], description["output"]) == ([1, 28, 28], [40])
    assert description["parameters"] == 320 + 18_496 + 92_200
    assert description["layers"][0]["detail"] == "32 filters, kernel 3, stride 2"
    assert [row["type"] for row in description["layers"]].count("ReLU") == 2


def test_the_decoder_is_the_presentations() -> None:
    description = described(deck28.decoder(SHAPE, 32, 20, "relu"), 20)
    assert rows(description, "Linear", "Reshape", "ConvTranspose2d") == [
        ("Linear", [1568], 20 * 1568 + 1568),
        ("Reshape", [32, 7, 7], 0),
        ("ConvTranspose2d", [64, 14, 14], 32 * 64 * 9 + 64),
        ("ConvTranspose2d", [32, 28, 28], 64 * 32 * 9 + 32),
        ("ConvTranspose2d", [1, 28, 28], 32 * 9 + 1),
    ]
    assert description["parameters"] == 32_928 + 18_496 + 18_464 + 289
    assert description["layers"][-1]["type"] == "ReLU"
    transposed = [row["detail"] for row in description["layers"] if row["type"] == "ConvTranspose2d"]
    assert [text.split(", padding")[0] for text in transposed] == [
        "64 filters, kernel 3, stride 2",
        "32 filters, kernel 3, stride 2",
        "1 filters, kernel 3, stride 1",
    ]


def test_the_generator_is_the_presentations() -> None:
    description = described(deck28.generator(SHAPE, 64, 100, 0.3), 100)
    assert rows(description, "Linear", "BatchNorm1d", "BatchNorm2d", "Reshape", "ConvTranspose2d", "Tanh") == [
        ("Linear", [12544], 100 * 12544),
        ("BatchNorm1d", [12544], 2 * 12544),
        ("Reshape", [256, 7, 7], 0),
        ("ConvTranspose2d", [128, 7, 7], 256 * 128 * 25),
        ("BatchNorm2d", [128, 7, 7], 256),
        ("ConvTranspose2d", [64, 14, 14], 128 * 64 * 25),
        ("BatchNorm2d", [64, 14, 14], 128),
        ("ConvTranspose2d", [1, 28, 28], 64 * 25),
        ("Tanh", [1, 28, 28], 0),
    ]
    assert description["parameters"] == 1_254_400 + 25_088 + 819_200 + 256 + 204_800 + 128 + 1_600
    slopes = [row["detail"] for row in description["layers"] if row["type"] == "LeakyReLU"]
    assert slopes == ["slope 0.3"] * 3


def test_the_discriminator_is_the_presentations() -> None:
    description = described(deck28.discriminator(SHAPE, 64, 0.3, 0.3), *SHAPE)
    assert rows(description, "Conv2d", "Dropout", "Linear") == [
        ("Conv2d", [64, 14, 14], 64 * 25 + 64),
        ("Dropout", [64, 14, 14], 0),
        ("Conv2d", [128, 7, 7], 128 * 64 * 25 + 128),
        ("Dropout", [128, 7, 7], 0),
        ("Linear", [1], 6272 + 1),
    ]
    assert description["output"] == []  # a logit for each image
    assert description["parameters"] == 1_664 + 204_928 + 6_273
    details = {row["detail"] for row in description["layers"] if row["type"] == "Dropout"}
    assert details == {"probability 0.3"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [1, 4])
def test_width_and_channels_scale(width: int, channels: int) -> None:
    shape = (channels, 28, 28)
    encoder = described(deck28.encoder(shape, width, 5), *shape)
    assert encoder["parameters"] == (9 * channels + 1) * width + (9 * width + 1) * 2 * width + (72 * width + 1) * 5
    decoder = described(deck28.decoder(shape, width, 5, "sigmoid"), 5)
    assert [row[1] for row in rows(decoder, "ConvTranspose2d")] == [
        [2 * width, 14, 14],
        [width, 28, 28],
        [channels, 28, 28],
    ]
    generator = described(deck28.generator(shape, width, 5, 0.2), 5)
    assert [row[1] for row in rows(generator, "ConvTranspose2d")] == [
        [2 * width, 7, 7],
        [width, 14, 14],
        [channels, 28, 28],
    ]
    discriminator = described(deck28.discriminator(shape, width, 0.2, 0.1), *shape)
    assert [row[1] for row in rows(discriminator, "Conv2d")] == [[width, 14, 14], [2 * width, 7, 7]]


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 64), (1, 28, 32)])
def test_another_size_is_refused(shape: tuple[int, int, int]) -> None:
    message = rf"deck28 draws images of 28 x 28, the dataset's are {shape[1]} x {shape[2]}; set data.* or choose"
    builds: list[Callable[[], nn.Module]] = [
        lambda: deck28.encoder(shape, 2, 3),
        lambda: deck28.decoder(shape, 2, 3, "relu"),
        lambda: deck28.generator(shape, 2, 3, 0.3),
        lambda: deck28.discriminator(shape, 2, 0.3, 0.3),
    ]
    for build in builds:
        with pytest.raises(GenlibError, match=message):
            build()


@pytest.mark.parametrize(("output", "low", "high"), [("sigmoid", 0.0, 1.0), ("relu", 0.0, float("inf"))])
def test_the_last_activation(output: str, low: float, high: float) -> None:
    with rng.default_generators(0, "test"):
        decoder = deck28.decoder(SHAPE, 2, 3, output)
    images: Tensor = decoder(100 * rng.latents(8, 3, 0, "test"))
    assert images.min() >= low
    assert images.max() <= high
    assert (images == 0).any() == (output == "relu")
    assert (images.max() > 1) == (output == "relu")


def test_the_generator_ends_between_minus_one_and_one() -> None:
    with rng.default_generators(0, "test"):
        images = deck28.generator(SHAPE, 2, 3, 0.3)(rng.latents(8, 3, 0, "test"))
    assert -1 <= images.min() < 0 < images.max() <= 1


def test_weights_are_glorot_uniform_and_biases_zero() -> None:
    with rng.default_generators(0, "test"):
        layer = deck28.encoder(SHAPE, 32, 40).get_submodule("2")
    assert isinstance(layer, nn.Conv2d)
    bound = (6 / (32 * 9 + 64 * 9)) ** 0.5
    assert layer.weight.abs().max() <= bound
    assert layer.weight.abs().max() > 0.99 * bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
    assert layer.bias is not None
    assert not layer.bias.any()


@pytest.mark.parametrize("training", [True, False])
def test_describing_changes_nothing(training: bool) -> None:
    network = deck28.generator(SHAPE, 2, 3, 0.3).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    described(network, 3)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert {module.training for module in network.modules()} == {training}
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_families_are_found() -> None:
    assert nets.names() == ("dcgan", "deck28", "mlp")
    for name in nets.names():
        family = nets.get(name)
        assert all(callable(getattr(family, part)) for part in ("encoder", "decoder", "generator", "discriminator"))
