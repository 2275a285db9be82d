"""Small pieces that several architectures share, and torch's layers where its own are slow."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

_FEW = 4  # channels: those of images
_LEAST_FOLDED = 4  # pixels: kernels from which on columns are folded more quickly than cuDNN transposes convolutions


class Conv2d(nn.Conv2d):
    """torch's, with the gradient of its bias as a sum of its own; in training on a GPU, as matrix products.

    On CPUs, oneDNN takes as long for it as for all other gradients where channels are last in memory.
    """

    def forward(self, input: Tensor) -> Tensor:
        if _by_products(self, input):
            convolved: Tensor = _Convolved.apply(*_cast(input, self.weight, self.bias), self.stride[0], _padding(self))
            return convolved
        if self.bias is None:
            return super().forward(input)
        return _with_gradient(self._conv_forward(input, self.weight, self.bias.detach()), self.bias)


class ConvTranspose2d(nn.ConvTranspose2d):
    """The same for the transposed convolution; sizes of its output are as `output_padding` says."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is None and _by_products(self, input):
            folded = _has_few(self) or self.kernel_size[0] >= _LEAST_FOLDED
            sizes: Any = self.stride[0], _padding(self), self.output_padding[0], folded
            transposed: Tensor = _Transposed.apply(*_cast(input, self.weight, self.bias), *sizes)
            return transposed
        if self.bias is None or output_size is not None:
            return super().forward(input, output_size)
        sizes = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        transposed = nn.functional.conv_transpose2d(input, self.weight, self.bias.detach(), *sizes)
        return _with_gradient(transposed, self.bias)


class Dropout(nn.Dropout):
    """torch's (Srivastava et al. 2014: what is kept is scaled up), its mask on CPUs from 16 random bits a number.

    That is four times as fast as torch's draws, and rounds the probability to a multiple of 2^-16.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.is_cuda:
            return super().forward(input)
        return input * kept(input, self.p)


def kept(like: Tensor, p: float) -> Tensor:
    """Factors for what is `like` this: 0 with probability p, else 1 / (1 - p), of 16 bits each.

    Like a function of torch's own, it can be overridden by a torch function mode (`genlib.training.distributed`).
    """
    if has_torch_function_unary(like):
        answer: Tensor = handle_torch_function(kept, (like,), like, p)
        return answer
    dropped = round(p * 2**16)
    whole = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = whole.view(torch.int16)[: like.numel()].view(like.shape)
    return (bits >= dropped - 2**15).to(like.dtype).mul_(2**16 / (2**16 - dropped))


class _BiasGradient(torch.autograd.Function):
    """Images B C H W as they are; a bias of C numbers, which is in them, gets its gradient.

    They count as written to, not as a view: into a view that is made here, no activation could write in place.
    """

    @staticmethod
    def forward(context: Any, images: Tensor, bias: Tensor) -> Tensor:
        context.mark_dirty(images)
        return images

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        return gradient, gradient.sum((0, 2, 3)) if context.needs_input_grad[1] else None


def _with_gradient(images: Tensor, bias: Tensor) -> Tensor:
    images_with: Tensor = _BiasGradient.apply(images, bias)
    return images_with


def _by_products(layer: nn.Conv2d | nn.ConvTranspose2d, images: Tensor) -> bool:
    """Whether a layer is computed as matrix products: in training on a GPU, where cuDNN is slower.

    With algorithms that are deterministic, which training asks for, it takes up to 10 times as long for gradients of
    weights, and several times for layers whose images have few channels in any precision. In bf16 and TF32 it is fast
    for the others.
    """
    if not (_on_gpu(images) and torch.is_grad_enabled()):
        return False
    square = all(
        len(set(sizes)) == 1 for sizes in (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
    )
    simple = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return square and simple and not isinstance(layer.padding, str) and (_has_few(layer) or _strict())


def _has_few(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return min(layer.in_channels, layer.out_channels) <= _FEW


def _on_gpu(images: Tensor) -> bool:
    return images.is_cuda


def _strict() -> bool:
    """Whether float32 is float32."""
    return torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled("cuda")


def _padding(layer: nn.Conv2d | nn.ConvTranspose2d) -> int:
    return int(layer.padding[0])


def _cast(*tensors: Tensor | None) -> list[Tensor | None]:
    """As autocast has them where it holds."""
    if not torch.is_autocast_enabled("cuda"):
        return list(tensors)
    return [tensor if tensor is None else tensor.to(torch.get_autocast_dtype("cuda")) for tensor in tensors]


class _Convolved(torch.autograd.Function):
    """The convolution of B C H W with weights O C K K and a bias of O numbers or none, to B O h w, channels last.

    Windows of the images are laid out as rows of a matrix (Chellapilla et al. 2006).
    """

    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        rows, columns = _windows(images, weight.shape[2], stride, padding), _matrix(weight).t()
        context.save_for_backward(images, weight, rows if weight.requires_grad else None)
        context.sizes = stride, padding
        sizes = [(size + 2 * padding - weight.shape[2]) // stride + 1 for size in images.shape[2:]]
        # Made as it is to lie, for an activation may write in place: not into a view.
        shape = (len(images), len(weight), *sizes)
        made = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)
        if bias is None:
            torch.mm(rows, columns, out=_rows(made))
        else:
            torch.addmm(bias, rows, columns, out=_rows(made))
        return made

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, rows = context.saved_tensors
        stride, padding = context.sizes
        of_images = of_weight = of_bias = None
        if torch.is_grad_enabled():  # for a gradient of the gradient, which is one of the images, too
            rows = _windows(images, weight.shape[2], stride, padding)
        if context.needs_input_grad[0]:
            of_images = _folded(gradient, weight, images.shape[2:], stride, padding)
        if context.needs_input_grad[1]:
            of_weight = _kernels(_rows(gradient).t() @ rows, weight)
        if context.needs_input_grad[2]:
            of_bias = _rows(gradient).sum(0)
        return of_images, of_weight, of_bias, None, None


class _Transposed(torch.autograd.Function):
    """The transposed convolution of B C H W with weights C O K K and a bias of O numbers or none, to B O h w.

    Backwards it is a convolution, so that the windows serve both gradients. `folded`: forwards, too, it is a product,
    whose columns are added up where they belong.
    """

    @staticmethod
    def forward(
        context: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int,
        padding: int,
        outer: int,
        folded: bool,
    ) -> Tensor:
        context.save_for_backward(images, weight)
        context.sizes = stride, padding
        if not folded:
            return F.conv_transpose2d(images, weight, bias, stride, padding, outer)
        sizes = [(size - 1) * stride - 2 * padding + weight.shape[2] + outer for size in images.shape[2:]]
        made = _folded(images, weight, sizes, stride, padding)
        return made if bias is None else made.add_(bias[:, None, None])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = context.saved_tensors
        stride, padding = context.sizes
        of_images = of_weight = of_bias = None
        rows = _windows(gradient, weight.shape[2], stride, padding)
        if context.needs_input_grad[0]:
            of_images = _images(rows @ _matrix(weight).t(), len(images), *images.shape[2:])
        if context.needs_input_grad[1]:
            of_weight = _kernels(_rows(images).t() @ rows, weight)
        if context.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_images, of_weight, of_bias, None, None, None, None


def _windows(images: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Windows of B C H W, B h w x K K C."""
    padded = F.pad(images, (padding, padding, padding, padding)) if padding else images
    windows = padded.unfold(2, kernel, stride).unfold(3, kernel, stride)  # B C h w K K
    return windows.permute(0, 2, 3, 4, 5, 1).reshape(-1, kernel * kernel * images.shape[1])


def _rows(images: Tensor) -> Tensor:
    """Pixels of B C H W, B H W x C."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def _images(rows: Tensor, count: int, height: int, width: int) -> Tensor:
    """The opposite of `_rows`, channels last in memory."""
    return rows.view(count, height, width, -1).permute(0, 3, 1, 2)


def _matrix(weight: Tensor) -> Tensor:
    """Weights N C K K, N x K K C; a view where channels are last in memory."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _kernels(matrix: Tensor, like: Tensor) -> Tensor:
    """The opposite of `_matrix`."""
    count, channels, kernel, _ = like.shape
    return matrix.view(count, kernel, kernel, channels).permute(0, 3, 1, 2)


def _folded(images: Tensor, weight: Tensor, sizes: Any, stride: int, padding: int) -> Tensor:
    """The transposed convolution of B C H W with weights C O K K, to B O and these sizes, channels last."""
    columns = torch.matmul(weight.reshape(len(weight), -1).t(), images.flatten(2))  # B x O K K x H W
    folded = F.fold(columns, sizes, weight.shape[2], padding=padding, stride=stride)
    return folded.contiguous(memory_format=torch.channels_last)


class Reshape(nn.Module):
    """B x anything to B x shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)

    def extra_repr(self) -> str:
        return " x ".join(str(size) for size in self.shape)


def activation(name: str) -> nn.Module:
    """The last activation of a decoder: `sigmoid` or `relu`; `logits` is none."""
    activations: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "logits": nn.Identity}
    return activations[name]()
