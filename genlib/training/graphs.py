"""A training step as a CUDA graph: what it launches is captured once, then launched as one, without Python in between.

A step of a small network is some hundred kernels, each over before the next one can be launched. A graph has the
addresses of its tensors in it, so whatever is put back or handed in here is copied into place. It is used only where it
was seen to do what the model's own code does; where not, one line says why, and steps are taken one by one.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genlib import rng
from genlib.memory import is_shortage

if TYPE_CHECKING:
    from genlib.training import Training

TOLERANCE = {"float32": 1e-4, "tf32": 1e-4, "bf16": 1e-2}
"""How far a replayed step may be from a plain one, by precision: a loss, as a share of itself; a weight tensor, an
optimizer's moment or a batch norm's statistic, as a share of the distance by which steps move it (Euclidean norms).
"""

_COMPARED_STEPS = 2  # of which the second one has other noise, and moments that are not zero

Step = Callable[[Tensor], dict[str, Tensor]]
"""From images B C H W to losses. What it returns is overwritten by the next call."""


def captured(training: "Training", plain: Step, noise: torch.Generator, images: Tensor) -> Step | None:
    """A step that replays a graph of the model's, or None, with the reason printed; `training` is as it was before.

    Args:
        training: on a CUDA device, alone, its state restored; to be called in the context of its precision.
        plain: a step as it is without a graph, which says what fits if memory does not suffice.
        noise: the generator that steps draw from. A graph takes it as it then is, seeded anew for each epoch.
        images: a batch as the graph is to take them, B C H W.
    """

    def once(batch: Tensor) -> dict[str, Tensor]:
        return training.objective.train_step(training.networks, training.optimizers, batch, noise, training.settings)

    state = State(training.networks, training.optimizers)
    aside = torch.cuda.Stream(training.device)
    with _queued_on(aside):
        expected = _outcome(training, state, plain, noise, images)
    step: Step | None = None
    try:
        fault = state.moved_number()
        if fault is None:
            with _queued_on(aside), rng.default_generators(training.seed, "dropout"):
                _without_waiting(once, images)
            state.put_back()
            step = Replayed(once, images, noise, aside)
            found = _outcome(training, state, step, noise, images)
            fault = disagreement(state.copies, expected, found, TOLERANCE[training.settings.precision])
    except RuntimeError as error:
        fault = _reason(error)
    state.put_back()
    if fault is None:
        return step
    # What was captured, or half captured, gives its memory back before other steps need it.
    del step
    gc.collect()
    _release(noise)
    state.forget()
    print(f"CUDA graph of a training step: not used ({fault}); steps are launched one by one", flush=True)
    return None


class Replayed:
    """A step, captured. `aside`: the stream on which it was taken before, so that nothing is set up any more."""

    def __init__(self, step: Step, images: Tensor, noise: torch.Generator, aside: torch.cuda.Stream) -> None:
        self._images = images.clone()
        self._graph = torch.cuda.CUDAGraph()
        with warnings.catch_warnings():  # torch registers generators by itself since 2.12, and says so
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            self._graph.register_generator_state(noise)
        with torch.cuda.graph(self._graph, stream=aside):
            self._losses = step(self._images)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        self._images.copy_(images)
        self._graph.replay()
        return self._losses


class State:
    """All that a step changes, copied: weights, buffers, what optimizers keep and numbers of their parameter groups."""

    def __init__(self, networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self._networks, self._optimizers = networks, optimizers
        self._trained = {weight: weight.requires_grad for weight in self._weights()}
        self._numbers = [
            (group, {key: value for key, value in group.items() if key != "params"})
            for optimizer in optimizers.values()
            for group in optimizer.param_groups
        ]
        self.copies = self.now()

    def now(self) -> dict[str, Tensor]:
        """Every tensor by name, as it is now."""
        return {name: tensor.detach().clone() for name, tensor in self._tensors()}

    @torch.no_grad()
    def put_back(self) -> None:
        """Every tensor in its place as it was; what an optimizer made since is zero, as Adam's moments are at first."""
        for name, tensor in self._tensors():
            if name in self.copies:
                tensor.copy_(self.copies[name])
            else:
                tensor.zero_()
        for weight, trained in self._trained.items():
            weight.grad = None
            weight.requires_grad_(trained)

    def forget(self) -> None:
        """After `put_back`: what optimizers made since is gone, and numbers of their groups are as they were."""
        for player, optimizer in self._optimizers.items():
            for index, weight in enumerate(_moved(optimizer)):
                if not any(name.startswith(f"optimizers.{player}.{index}.") for name in self.copies):
                    optimizer.state.pop(weight, None)
        for group, numbers in self._numbers:
            group.update(numbers)

    def moved_number(self) -> str | None:
        """Which number of a parameter group is another one since, for a graph would keep it; tensors may change."""
        for group, numbers in self._numbers:
            for key, before in numbers.items():
                if not torch.is_tensor(before) and not torch.is_tensor(group[key]) and group[key] != before:
                    return f"the step changes {key}, a number that a graph would keep"
        return None

    def _weights(self) -> Iterator[nn.Parameter]:
        return (weight for network in self._networks.values() for weight in network.parameters())

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, network in self._networks.items():
            yield from ((f"networks.{name}.{key}", tensor) for key, tensor in network.named_parameters())
            yield from ((f"networks.{name}.{key}", tensor) for key, tensor in network.named_buffers())
        for player, optimizer in self._optimizers.items():
            for index, weight in enumerate(_moved(optimizer)):
                yield from _named(f"optimizers.{player}.{index}", optimizer.state.get(weight, {}))
            for index, group in enumerate(optimizer.param_groups):
                yield from _named(f"optimizers.{player}.group {index}", group)


@dataclass(frozen=True)
class Outcome:
    """What some steps give: the losses of each, and all tensors after them by name."""

    losses: list[dict[str, Tensor]]
    tensors: dict[str, Tensor]


def _outcome(training: "Training", state: State, step: Step, noise: torch.Generator, images: Tensor) -> Outcome:
    """Of steps from the state that was copied, with random numbers that are the same each time."""
    state.put_back()
    noise.manual_seed(rng.derive(training.seed, "noise"))
    with rng.default_generators(training.seed, "dropout"):
        losses = [{name: loss.clone() for name, loss in step(images).items()} for _ in range(_COMPARED_STEPS)]
    return Outcome(losses, state.now())


def disagreement(before: Mapping[str, Tensor], expected: Outcome, found: Outcome, tolerance: float) -> str | None:
    """In which respect, if any, replayed steps differ from plain ones. `before`: the tensors that both started from."""
    for number, (wanted, got) in enumerate(zip(expected.losses, found.losses, strict=True), start=1):
        for name, loss in wanted.items():
            one, other = float(loss), float(got[name])
            if not abs(one - other) <= tolerance * abs(one):
                return f"its loss {name} is {other:.7g} in step {number}, not {one:.7g}"
    for name, tensor in expected.tensors.items():
        way = _length(tensor - before[name] if name in before else tensor)
        off = _length(found.tensors[name] - tensor)
        if not off <= tolerance * way:
            return f"it leaves {name} {off:.2g} from where it should be, {way:.2g} from where it was"
    return None


def _length(tensor: Tensor) -> float:
    return float(tensor.double().norm())


def _named(of: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    return ((f"{of}.{key}", value) for key, value in values.items() if torch.is_tensor(value))


def _moved(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _without_waiting(step: Step, images: Tensor) -> None:
    """Take a step in which it is an error to wait for the device: told here, it leaves no capture half done."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(images)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def _queued_on(stream: torch.cuda.Stream) -> Iterator[None]:
    """Work in the block, on a stream of its own, comes after what is queued already and before what is queued later."""
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.current_stream().wait_stream(stream)


def _release(noise: torch.Generator) -> None:
    """Let steps draw again from their generator and from torch's own, which is seeded anew before it is used.

    Before torch 2.12, a capture that failed leaves them in it.
    """
    index = torch.cuda.current_device() if noise.device.index is None else noise.device.index
    for generator in (noise, torch.cuda.default_generators[index]):
        generator.graphsafe_set_state(torch.Generator(noise.device).graphsafe_get_state())


def _reason(error: RuntimeError) -> str:
    """In some words, what went wrong first: the end of a capture that has failed fails, too."""
    first: BaseException = error
    while isinstance(first.__context__, RuntimeError):
        first = first.__context__
    if is_shortage(first):
        return "memory does not suffice for it"
    return " ".join(str(first).splitlines()[0].split())[:200] if str(first) else type(first).__name__
