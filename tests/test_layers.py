"""Layers that compute what torch's own compute, faster."""

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
    (output.square() * torch.arange(output.numel(), device=output.device).view(output.shape)).sum().backward()
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


# As matrix products, which training takes on GPUs.

GEOMETRIES = [(3, 2, 0, 0, 28), (3, 2, 1, 1, 7), (3, 1, 1, 0, 9), (5, 1, 2, 0, 7), (5, 2, 2, 1, 7), (4, 2, 1, 0, 8)]
GEOMETRIES += [(4, 1, 0, 0, 4), (4, 2, 1, 0, 9)]  # the last one leaves a row and a column over


@pytest.fixture
def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_on_gpu", lambda _: True)
    monkeypatch.setattr(layers, "_strict", lambda: True)


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize(("kernel", "stride", "padding", "outer", "size"), GEOMETRIES)
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_products_and_all_their_gradients_are_torchs(
    kernel: int, stride: int, padding: int, outer: int, size: int, channels: int, bias: bool, order: torch.memory_format
) -> None:
    """An activation writes in place; float64, so that nothing but rounding is forgiven."""
    torch.manual_seed(0)
    sizes = (kernel, stride, padding)
    kinds: list[tuple[nn.Module, nn.Module, int]] = [
        (
            layers.ConvTranspose2d(6, channels, *sizes, output_padding=outer, bias=bias),
            nn.ConvTranspose2d(6, channels, *sizes, output_padding=outer, bias=bias),
            6,
        ),
        (layers.Conv2d(channels, 6, *sizes, bias=bias), nn.Conv2d(channels, 6, *sizes, bias=bias), channels),
    ]
    for ours, theirs, given in kinds:
        ours.double().to(memory_format=order)
        theirs.double().load_state_dict(ours.state_dict())
        images = torch.randn(3, given, size, size, dtype=torch.float64).to(memory_format=order)
        mine = gradients(nn.Sequential(ours, nn.LeakyReLU(0.2, inplace=True)), images)
        expected = gradients(nn.Sequential(theirs, nn.LeakyReLU(0.2)), images)
        assert len(mine) == len(expected) == (4 if bias else 3)
        for one, other in zip(mine, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize("kind", [layers.Conv2d, layers.ConvTranspose2d])
def test_gradients_of_gradients_are_right(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d]) -> None:
    """As a penalty on a discriminator's gradient takes them."""
    torch.manual_seed(0)
    layer = kind(2, 3, 4, 2, 1).double()
    images = torch.randn(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)

    def of(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        answer: Tensor = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, images)
        return answer

    assert layer.bias is not None
    assert torch.autograd.gradgradcheck(of, (images, layer.weight, layer.bias))


@pytest.mark.usefixtures("as_on_gpu")
def test_products_lie_with_channels_last() -> None:
    images = torch.randn(2, 6, 8, 8, requires_grad=True).to(memory_format=torch.channels_last)
    for layer in (layers.Conv2d(6, 7, 4, 2, 1), layers.ConvTranspose2d(6, 7, 4, 2, 1)):
        made = layer.to(memory_format=torch.channels_last)(images)
        assert made.is_contiguous(memory_format=torch.channels_last)
        (of_images,) = torch.autograd.grad(made.sum(), images, retain_graph=True)
        assert of_images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("as_on_gpu")
def test_weights_that_are_held_constant_cost_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GAN's discriminator while the generator moves."""
    for layer in (layers.Conv2d(5, 6, 4, 2, 1), layers.ConvTranspose2d(5, 6, 4, 2, 1)):
        images = torch.randn(2, 5, 8, 8, requires_grad=True)
        made = layer.requires_grad_(False)(images)
        with monkeypatch.context() as patch:
            patch.delattr(layers, "_kernels")
            made.sum().backward()
        assert images.grad is not None


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2d(6, 6, 3, groups=2),
        layers.Conv2d(6, 6, 3, dilation=2),
        layers.Conv2d(6, 6, 3, padding="same"),
        layers.Conv2d(6, 6, (3, 5)),
        layers.Conv2d(6, 6, 3, stride=(1, 2)),
        layers.Conv2d(6, 6, 3, padding=(1, 0)),
        layers.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"),
        layers.ConvTranspose2d(6, 6, 3, 2, 1, output_padding=(1, 0)),
    ],
    ids=str,
)
def test_what_products_do_not_compute_is_left_to_torch(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(layers, "_windows")
    monkeypatch.delattr(layers, "_folded")
    gradients(layer, torch.randn(2, 6, 9, 9))


@pytest.mark.parametrize(("channels", "strict", "expected"), [(3, False, True), (5, False, False), (5, True, True)])
def test_with_less_precision_only_the_layers_of_images_are_products(
    channels: int, strict: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_on_gpu", lambda _: True)
    monkeypatch.setattr(layers, "_strict", lambda: strict)
    layer, images = layers.Conv2d(channels, 6, 4, 2, 1), torch.randn(2, channels, 8, 8)
    assert layers._by_products(layer, images) is expected
    with torch.no_grad():
        assert not layers._by_products(layer, images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_computes_what_the_cpu_does(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for layer, given in ((layers.Conv2d(3, 6, 4, 2, 1), 3), (layers.ConvTranspose2d(6, 3, 4, 2, 1), 6)):
        images = torch.randn(4, given, 16, 16)
        expected = gradients(layer, images)
        layer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = gradients(layer.cuda(), images.cuda())
        for one, other in zip(found, expected, strict=True):
            assert float((one.cpu().float() - other).norm() / other.norm()) < tolerance
