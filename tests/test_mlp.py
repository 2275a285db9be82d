"""The dense networks, layer by layer, against numbers worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from genlib import nets, rng
from genlib.nets import mlp
from genlib.training.history import describe

SHAPE = (1, 28, 28)


def layers(network: nn.Module, *shape: int) -> list[tuple[str, list[int], int]]:
    [description] = describe({"it": network}, {"it": shape})
    return [(row["type"], row["output"], row["parameters"]) for row in description["layers"]]


def test_the_encoder_has_one_hidden_layer() -> None:
    assert layers(mlp.encoder(SHAPE, 400, outputs=80), *SHAPE) == [
        ("Flatten", [784], 0),
        ("Linear", [400], 784 * 400 + 400),
        ("ReLU", [400], 0),
        ("Linear", [80], 400 * 80 + 80),
    ]


def test_the_decoder_has_one_hidden_layer() -> None:
    assert layers(mlp.decoder(SHAPE, 400, 40, "sigmoid"), 40) == [
        ("Linear", [400], 40 * 400 + 400),
        ("ReLU", [400], 0),
        ("Linear", [784], 400 * 784 + 784),
        ("Reshape", [1, 28, 28], 0),
        ("Sigmoid", [1, 28, 28], 0),
    ]


def test_logits_are_the_pixels_before_the_sigmoid() -> None:
    codes = 3 * rng.latents(8, 5, 0, "test")
    outputs: dict[str, Tensor] = {}
    for output in ("logits", "sigmoid", "relu"):
        with rng.default_generators(0, "test"):
            outputs[output] = mlp.decoder((3, 6, 4), 7, 5, output)(codes)
    assert outputs["logits"].min() < 0
    torch.testing.assert_close(outputs["logits"].sigmoid(), outputs["sigmoid"])
    torch.testing.assert_close(outputs["logits"].clamp(min=0), outputs["relu"])


def test_images_of_any_size_and_their_pixels_in_order() -> None:
    shape = (3, 6, 4)
    assert [row[1] for row in layers(mlp.encoder(shape, 5, 2), *shape)] == [[72], [5], [5], [2]]
    decoder = mlp.decoder(shape, 5, 2, "logits")
    last = decoder.get_submodule("2")
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(72))
    assert torch.equal(decoder(torch.ones(1, 2))[0].flatten(), torch.arange(72).float())


def test_the_generator_ends_between_minus_one_and_one() -> None:
    with rng.default_generators(0, "test"):
        generator = mlp.generator(SHAPE, 9, 3, 0.3)
    images = generator(50 * rng.latents(8, 3, 0, "test"))
    assert images.shape == (8, *SHAPE)
    assert -1 <= images.min() < -0.5
    assert 0.5 < images.max() <= 1
    assert [module.negative_slope for module in generator.modules() if isinstance(module, nn.LeakyReLU)] == [0.3]


def test_the_discriminator_gives_a_logit_for_each_image() -> None:
    discriminator = mlp.discriminator(SHAPE, 9, 0.3, 0.4)
    assert layers(discriminator, *SHAPE) == [
        ("Flatten", [784], 0),
        ("Linear", [9], 784 * 9 + 9),
        ("LeakyReLU", [9], 0),
        ("Dropout", [9], 0),
        ("Linear", [1], 9 + 1),
        ("Reshape", [], 0),
    ]
    assert [module.p for module in discriminator.modules() if isinstance(module, nn.Dropout)] == [0.4]


def test_weights_are_uniform_within_one_over_the_root_of_the_inputs() -> None:
    with rng.default_generators(0, "test"):
        layer = mlp.encoder(SHAPE, 400, 80).get_submodule("1")
    assert isinstance(layer, nn.Linear)
    assert layer.weight.abs().max().item() == pytest.approx(1 / 28, rel=0.01)
    assert layer.weight.std().item() == pytest.approx(1 / 28 / 3**0.5, rel=0.02)


def test_the_family_is_found() -> None:
    assert "mlp" in nets.names()
    assert nets.get("mlp") is mlp
