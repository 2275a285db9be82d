"""Small pieces that several architectures share, and torch's layers where its own are slow on CPUs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary


class Conv2d(nn.Conv2d):
    """torch's, with the gradient of its bias as a sum of its own.

    On CPUs, oneDNN takes as long for it as for all other gradients where channels are last in memory.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.bias is None:
            return super().forward(input)
        return _with_gradient(self._conv_forward(input, self.weight, self.bias.detach()), self.bias)


class ConvTranspose2d(nn.ConvTranspose2d):
    """The same for the transposed convolution; sizes of its output are as `output_padding` says."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.bias is None or output_size is not None:
            return super().forward(input, output_size)
        sizes: Any = self.stride, self.padding, self.output_padding, self.groups, self.dilation
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
