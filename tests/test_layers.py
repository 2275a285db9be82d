"""Layers that compute what torch's own compute, faster on a CPU."""

import pytest
import torch
from torch import Tensor, nn

from genlib.nets import deck28, layers

Pair = tuple[nn.Module, nn.Module]


def pairs() -> dict[str, Pair]:
    """Ours and torch's of the same weights."""
    made: dict[str, Pair] = {}
    for bias in (True, False):
        sizes = {"kernel_size": 3, "stride": 2, "padding": 1, "bias": bias}
        made[f"conv, bias {bias}"] = layers.Conv2d(4, 6, **sizes), nn.Conv2d(4, 6, **sizes)  # type: ignore[arg-type]
        up = {**sizes, "output_padding": 1}
        made[f"transposed, bias {bias}"] = layers.ConvTranspose2d(4, 6, **up), nn.ConvTranspose2d(4, 6, **up)  # type: ignore[arg-type]
    for ours, theirs in made.values():
        theirs.load_state_dict(ours.state_dict())
    return made


def gradients(layer: nn.Module, images: Tensor) -> list[Tensor]:
    images = images.detach().clone().requires_grad_()
    output: Tensor = layer(images)
    (output.square() * torch.arange(output.numel()).view(output.shape)).sum().backward()
    assert images.grad is not None
    return [output.detach(), images.grad, *(weight.grad for weight in layer.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("kind", list(pairs()))
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_convolutions_and_all_their_gradients_are_torchs(kind: str, order: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours, theirs = pairs()[kind]
    images = torch.randn(5, 4, 8, 8).to(memory_format=order)
    mine, expected = (gradients(layer.to(memory_format=order), images) for layer in (ours, theirs))
    assert len(mine) == len(expected) == (4 if "True" in kind else 3)
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", list(pairs()))
def test_an_activation_may_write_in_place_after_a_convolution(kind: str) -> None:
    torch.manual_seed(0)
    ours, theirs = pairs()[kind]
    images = torch.randn(5, 4, 8, 8)
    mine = gradients(nn.Sequential(ours, nn.LeakyReLU(0.2, inplace=True)), images)
    expected = gradients(nn.Sequential(theirs, nn.LeakyReLU(0.2)), images)
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_a_bias_that_is_held_constant_takes_no_gradient() -> None:
    layer = layers.Conv2d(1, 2, 3).requires_grad_(False)
    images = torch.randn(1, 1, 5, 5, requires_grad=True)
    layer(images).sum().backward()
    assert images.grad is not None
    assert layer.bias is not None
    assert layer.bias.grad is None


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
def test_dropout_keeps_its_share_and_the_mean(p: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(401, 1003, requires_grad=True)  # no multiple of what one draw serves
    output = layers.Dropout(p)(ones)
    share = (output == 0).double().mean().item()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / ones.numel()) ** 0.5 + 2**-16)
    assert output.mean().item() == pytest.approx(1, abs=0.01)
    output.sum().backward()
    assert ones.grad is not None
    assert torch.equal(ones.grad, output.detach())


def test_dropout_is_independent_from_place_to_place_and_nothing_in_evaluation() -> None:
    torch.manual_seed(1)
    layer = layers.Dropout(0.5)
    kept = (layer(torch.ones(4, 250_000)) > 0).double()
    agreement = torch.corrcoef(torch.cat([kept, kept.roll(1, 1)]))
    assert (agreement - torch.eye(8)).abs().max() < 0.012  # 6 standard errors
    assert torch.equal(layer.eval()(torch.arange(9.0)), torch.arange(9.0))


def test_dropout_depends_on_the_default_generator_only() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(layers.Dropout(0.4)(torch.ones(99)))
    assert torch.equal(*drawn)


def test_autoencoders_keep_channels_last_through_their_convolutions() -> None:
    encoder, decoder = deck28.encoder((1, 28, 28), 4, 6), deck28.decoder((1, 28, 28), 4, 3, "sigmoid")
    for network in (encoder, decoder):
        for weight in network.parameters():
            assert weight.dim() != 4 or weight.is_contiguous(memory_format=torch.channels_last)
