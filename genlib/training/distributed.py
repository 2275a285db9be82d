"""One training by several processes: each takes its rows of every batch, and together they step as one would.

Inside of `Team.together`, a model's own `train_step`, which knows nothing of it, computes of this process's rows what a
single process computes of them as a part of the whole batch:

- random numbers: drawn for the whole batch from the same generator, of which these rows are taken;
- batch norm: its statistics are those of the whole batch, and gradients pass through them;
- gradients: averaged over the processes at the end of each `backward()`, so that whatever a model does with them before
  its optimizer steps, such as clipping, it does with those of the whole batch.

So N processes give what one gives, up to the rounding of sums. torch's DistributedDataParallel does the last of the
three only, has to be called in place of each network, and is made for one forward pass followed by its backward pass: a
GAN's discriminator has two before its own, and one more before the generator's, in which its weights have no part.
torch's SyncBatchNorm is for CUDA only. A hook of the optimizer would come after the model's own use of gradients.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from genlib.errors import GenlibError
from genlib.nets import layers


class LostError(GenlibError):
    """Another process of the training has ended in the middle of it."""


@dataclass(frozen=True)
class Team:
    """The processes of one training, of which this is number `rank` of `size`; the first one also writes and says."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process judges, records, writes and prints."""
        return self.rank == 0

    def check(self, batch_size: int) -> None:
        """GenlibError if a batch cannot be split into equal parts."""
        if batch_size % self.size:
            multiple = max(1, round(batch_size / self.size)) * self.size
            raise GenlibError(
                f"batch_size: {batch_size} images cannot be split evenly among {self.size} processes; set it to a "
                f"multiple, such as {multiple}, or change the number of processes"
            )

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch that this process takes."""
        each = batch_size // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes, the same in each, without gradient."""
        total = values.detach().clone(memory_format=torch.contiguous_format)
        _exchange(dist.all_reduce, total, dist.ReduceOp.SUM)
        return total

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over the processes, the same in each, without gradient."""
        return values if self.size == 1 else self.total(values) / self.size

    def handed(self, content: bytes) -> bytes:
        """What the first process calls this with."""
        length = torch.tensor(len(content))
        _exchange(dist.broadcast, length, 0)
        if length == 0:
            return b""
        data = torch.empty(int(length), dtype=torch.uint8)
        if self.first:
            data.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        _exchange(dist.broadcast, data, 0)
        return data.numpy().tobytes()

    def check_alike(self, networks: Mapping[str, nn.Module], epoch: int) -> None:
        """GenlibError if the weights of the processes have come to differ, to the last bit."""
        if self.size == 1:
            return
        sums = torch.stack([weight.detach().double().sum() for weight in _weights(networks)]).nan_to_num()
        extremes = torch.cat([sums, -sums])
        _exchange(dist.all_reduce, extremes, dist.ReduceOp.MAX)
        highest, lowest = extremes.chunk(2)
        if not torch.equal(highest, -lowest):
            raise GenlibError(
                f"after epoch {epoch}, the {self.size} processes have different weights: the model gets gradients "
                "otherwise than by backward(), or the processors differ; train it with one process"
            )

    def together(self, networks: Mapping[str, nn.Module], batch_size: int) -> AbstractContextManager[Any]:
        """The block, to be entered for each step, in which processes step as one (see the top of this module)."""
        return nullcontext() if self.size == 1 else _Together(self, networks, batch_size // self.size)


ALONE = Team()


class _Together(TorchFunctionMode):
    """Answers those of torch's functions in whose result a batch's rows are not independent of the rest of the batch.

    `rows` is how many rows of a batch one process has; a tensor with that many is one of them.
    """

    def __init__(self, team: Team, networks: Mapping[str, nn.Module], rows: int) -> None:
        super().__init__()
        self._team, self._rows = team, rows
        self._all_weights = list(_weights(networks))
        self._with_new_gradient = set[Tensor]()
        for weight in self._all_weights:
            weight.register_post_accumulate_grad_hook(self._with_new_gradient.add)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWN:
            return self._drawn(func, args, kwargs)
        if func in _DRAWN_FOR:
            return self._drawn_for(func, args, kwargs)
        if func in _FILLED:
            return args[0].copy_(self._drawn_for(func, args, kwargs))
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        answer = func(*args, **kwargs)
        if func is Tensor.backward:
            self._average_gradients()
        return answer

    def _drawn(self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Numbers of a given size: if it has this process's rows, these of what is drawn for all rows."""
        size = tuple(kwargs.get("size", args[0] if args and isinstance(args[0], Sequence) else args))
        if size[:1] != (self._rows,):
            return func(*args, **kwargs)
        others = {key: value for key, value in kwargs.items() if key != "size"}
        return self._own(func((self._rows * self._team.size, *size[1:]), **others))

    def _drawn_for(self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """What is drawn for the values of tensors, which are put in their place among zeros for all other rows."""
        if not any(_has_rows(value, self._rows) for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        whole = [self._in_place(value) for value in args]
        return self._own(func(*whole, **{key: self._in_place(value) for key, value in kwargs.items()}))

    def _in_place(self, value: Any) -> Any:
        if not _has_rows(value, self._rows):
            return value
        nothing = torch.zeros_like(value)
        return torch.cat([value if rank == self._team.rank else nothing for rank in range(self._team.size)])

    def _own(self, whole: Tensor) -> Tensor:
        return whole.chunk(self._team.size)[self._team.rank]

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Batch norm (Ioffe & Szegedy 2015, algorithm 1) over the whole batch: B C or B C ... to the same shape.

        Made of differentiable parts, so that gradients of gradients are right, too; of two sums over the processes,
        since the variance from sums of squares would cancel.
        """
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        others = [dimension for dimension in range(input.ndim) if dimension != 1]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        values = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        count = self._team.size * values.numel() // values.shape[1]
        mean = _total(values.sum(others), self._team) / count
        centred = values - mean.view(shape)
        variance = _total(centred.square().sum(others), self._team) / count
        for running, now in ((running_mean, mean), (running_var, variance * (count / (count - 1)))):
            if running is not None:
                running.mul_(1 - momentum).add_(now.detach(), alpha=momentum)
        scale = (variance + eps).rsqrt()
        normed = centred * (scale if weight is None else scale * weight).view(shape)
        return (normed if bias is None else normed + bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _average_gradients(self) -> None:
        """Those that came since the last time, in one message."""
        weights = [weight for weight in self._all_weights if weight in self._with_new_gradient]
        self._with_new_gradient.clear()
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if not gradients:
            return
        together = self._team.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        parts = together.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))


_DRAWN = {torch.randn, torch.rand}
_DRAWN_FOR = {
    *(torch.randn_like, torch.rand_like, torch.bernoulli, torch.normal, layers.kept),
    *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, F.rrelu),
}
_FILLED = {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_}


class _Total(torch.autograd.Function):
    """The sum over the processes. The losses of all of them depend on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, values: Tensor, team: Team) -> Tensor:
        context.team = team
        return team.total(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _total(gradient, context.team), None


def _total(values: Tensor, team: Team) -> Tensor:
    total: Tensor = _Total.apply(values, team)
    return total


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows


def _weights(networks: Mapping[str, nn.Module]) -> Iterable[nn.Parameter]:
    return (weight for network in networks.values() for weight in network.parameters())


def _exchange(operation: Callable[..., Any], tensor: Tensor, how: Any) -> None:
    """An operation in which all processes take part; LostError if one of them is gone."""
    try:
        operation(tensor, how)
    except RuntimeError as error:
        raise LostError(f"another process of this training has ended ({' '.join(str(error).split())[:200]})") from error
