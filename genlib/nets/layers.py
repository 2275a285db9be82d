"""Small pieces that several architectures share."""

from torch import Tensor, nn


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
