"""One training in a process of its own, for `benchmarks.training`: it trains while it has its turn, and waits between.

    python -m benchmarks.contestant KIND RUN --data FOLDER --threads N --workers N [--precision P] --began SECONDS

KIND: `textbook` or `genlib`, whole; `textbook-bare` or `genlib-bare`, without a loader and, genlib, without what makes
it fast, but with what is freed kept in both: otherwise it depends on where a process's blocks happen to lie whether
memory is given back at every step, which is worth a quarter. Both also count numbers below 1.2e-38 as 0: a fresh
autoencoder that sees the same few batches again and again has such gradients, with which processors compute at a third
of their rate, for the first 50 steps. `matmul` and `triad`: no training but what the machine can compute, and what its
memory can move.
After its first step it prints a line of JSON, then one for each line "SECONDS STEPS" that it reads, the least that it
trains in that turn. It ends with its standard input. The device is that of GENLIB_DEVICE. On a CUDA device a turn ends
when its last step is computed, memory is what torch took of the device's, and there is no `bare`.
"""

import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import textbook
from genlib import device, objectives, params, rng, training
from genlib.data.arrays import Images, open_split
from genlib.data.batches import to_float
from genlib.memory import keep_freed
from genlib.settings import ProgressSettings, RunSettings
from genlib.training import graphs
from stages.command import run

Kind = Literal["textbook", "genlib", "textbook-bare", "genlib-bare", "matmul", "triad"]

SHAPES = {"digits": (1, 28, 28), "mnist": (1, 28, 28)}
FACES = (3, 64, 64)
_DRAWN = 8000
_BARE_BATCHES = 8
_MATMUL = {"cpu": 1024, "cuda": 8192}
_TRIAD = 2**27  # numbers in each of three arrays, 1.5 GiB in all: several times the largest caches
_WARM_SECONDS = 0.1
_EPOCHS = 10_000
CPU = torch.device("cpu")
COUNTS_WORK = {"cpu": "genlib-bare", "cuda": "genlib"}
"""Which contestant says what a step has to do: one whose memory nobody looks at."""
_PROGRESS = ProgressSettings(frames=2, images=1, codes=1, rows_per_epoch=10, judged=2)


class Turns:
    """Called after each step: goes on while it is this process's turn, else says what it did and waits for the next.

    The first tenth of a second of a turn, and at least one step, are not counted: caches are cold, queues are full.
    """

    def __init__(self, batch_size: int, on: torch.device, first: Callable[[], dict[str, Any]] = dict) -> None:
        self.batch_size, self._on, self._first = batch_size, on, first
        self._started = False
        self._began = self._counted = self._counted_cpu = self._seconds = 0.0
        self._steps = self._least = 0

    def step(self) -> None:
        now = time.perf_counter()
        if not self._started:
            self._started = True
            self.computed()
            self._wait(self._first())
        elif self._steps == 0:
            if now - self._began >= _WARM_SECONDS:
                self._counted, self._counted_cpu, self._steps = self.computed(), time.process_time(), 1
        elif now - self._counted < self._seconds or self._steps <= self._least:
            self._steps += 1
        else:
            images, seconds = self._steps * self.batch_size, self.computed() - self._counted
            cpu = time.process_time() - self._counted_cpu
            rates = {"images_per_second": images / seconds, "images_per_cpu_second": images / cpu}
            self._wait({**rates, "peak_mib": _peak_mib(self._on)})

    def computed(self) -> float:
        """The time when all is computed that was asked of the device."""
        if self._on.type == "cuda":
            torch.cuda.synchronize(self._on)
        return time.perf_counter()

    def _wait(self, said: dict[str, Any]) -> None:
        print(json.dumps(said), flush=True)
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        seconds, least = line.split()
        self._seconds, self._least, self._steps, self._began = float(seconds), int(least), 0, time.perf_counter()


def main(
    kind: Annotated[str, typer.Argument(help="textbook, genlib, textbook-bare, genlib-bare, matmul or triad.")],
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")],
    data: Annotated[Path, typer.Option(help="Folder of processed datasets.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")],
    workers: Annotated[int, typer.Option(min=0, help="Processes of the textbook's loader.")] = 0,
    precision: Annotated[str | None, typer.Option(help="That of genlib's training; without it, the run's own.")] = None,
    began: Annotated[float, typer.Option(help="When this process was started, in seconds since 1970.")] = 0.0,
) -> None:
    """Train in turns."""
    torch.set_num_threads(threads)
    on = device.named()
    if kind == "matmul":
        _multiply(Turns(1, on), on)
    if kind == "triad":
        _triad(Turns(1, on), on)
    settings = params.load().run(name)
    settings = settings.model_copy(update={"precision": precision or settings.precision})
    images, source = load(data, settings)

    def first() -> dict[str, Any]:
        said = {"first_step_seconds": time.time() - began, "source": source}
        if kind == COUNTS_WORK[on.type]:
            work = work_per_image(settings, _shape(images))
            said |= {"flops_per_image": work.flops, "bytes_per_image": work.bytes}
        return said

    turns = Turns(settings.batch_size, on, first)
    if kind == "genlib":
        _genlib(settings, images, on, threads, turns)
    elif kind == "genlib-bare":
        keep_freed()
        torch.set_flush_denormal(True)
        _genlib_bare(settings, images, turns)
    else:
        _textbook(settings, images, on, workers, kind == "textbook-bare", turns)


def load(data: Path, settings: RunSettings) -> tuple[Images, str]:
    """The run's training images, memory-mapped, or as many random ones as memory is easily spared for; and which."""
    folder = data / settings.dataset
    if folder.exists():
        return open_split(folder, "train").images, "processed"
    shape = SHAPES.get(settings.dataset, FACES)
    return np.random.default_rng(0).integers(0, 256, (_DRAWN, *shape), np.uint8), "random"


@dataclass(frozen=True)
class Work:
    """What a training step has to do for each image of its batch.

    `flops`: additions and multiplications of its matrix products and convolutions; `bytes`: as `Moved` counts them.
    """

    flops: float
    bytes: float


class Moved(TorchDispatchMode):
    """Counts bytes as if there were no caches: every operator reads its inputs once and writes its outputs once.

    Weights, their gradients and the optimizer's state are among them, as often as operators name them. What an operator
    changes in place is read and written; a view, and memory that is only reserved, is neither. So a training whose
    tensors stay in caches may move more than the machine's memory could. On any device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = _tensors((args, kwargs)), _tensors(result)
        if "empty" not in func.__name__ and not _is_view(func, given, made):
            self.bytes += sum(_held_bytes(tensor) for tensor in given + made)
            if not func._schema.returns:  # in place on lists of tensors
                self.bytes += sum(_held_bytes(tensor) for tensor in _changed(func, args))
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _is_view(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether a result is memory of an argument that the operator does not write to."""
    places = {tensor.untyped_storage().data_ptr() for tensor in given if tensor.numel()}
    return not func._schema.is_mutable and any(tensor.untyped_storage().data_ptr() in places for tensor in made)


def _changed(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    return _tensors(
        [
            value
            for argument, value in zip(func._schema.arguments, args, strict=False)
            if argument.alias_info and argument.alias_info.is_write
        ]
    )


def _held_bytes(tensor: Tensor) -> int:
    """Those of its numbers, each place in memory counted once."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def work_per_image(settings: RunSettings, shape: tuple[int, int, int], on: torch.device = CPU) -> Work:
    """That of genlib's training step, without averaged weights; of its second one, before which optimizers have no
    state.
    """
    state = training.start(settings.model_copy(update={"ema_halflife_images": None}), 0, shape, on)
    batch, noise = torch.zeros(settings.batch_size, *shape, device=on), rng.generator(0, "noise", device=on)
    _train_step(state, batch, noise)
    with FlopCounterMode(display=False) as counter, Moved() as moved:
        _train_step(state, batch, noise)
    return Work(counter.get_total_flops() / settings.batch_size, moved.bytes / settings.batch_size)


def _textbook(settings: RunSettings, images: Images, on: torch.device, workers: int, bare: bool, turns: Turns) -> None:
    images.max()  # memory that an epoch takes in the end
    networks = objectives.get(settings.model).build(settings, _shape(images))
    textbook.plain(networks)
    for network in networks.values():
        network.to(on)
    if bare:
        keep_freed()
        torch.set_flush_denormal(True)
        batches = _fixed(images, settings)
    else:
        batches = textbook.endless(images, settings.batch_size, workers, settings.flip, pinned=on.type == "cuda")
    for _ in textbook.TRAIN[settings.model](networks, batches, settings, on):
        turns.step()


def _genlib(settings: RunSettings, images: Images, on: torch.device, threads: int, turns: Turns) -> None:
    device.choose(threads)
    chosen = training._chosen_step

    def watched(*arguments: Any) -> graphs.Step:
        step = chosen(*arguments)

        def counted(batch: Tensor) -> dict[str, Tensor]:
            losses = step(batch)
            turns.step()
            return losses

        return counted

    training._chosen_step = watched  # type: ignore[assignment]
    state = training.start(settings.model_copy(update={"epochs": _EPOCHS}), 0, _shape(images), on)
    for _ in training.run(state, images, images[:1], _PROGRESS, None):
        pass


def _genlib_bare(settings: RunSettings, images: Images, turns: Turns) -> None:
    """genlib's training step with torch's own layers in contiguous memory, Adam not fused, nothing frozen."""
    state = training.start(settings.model_copy(update={"ema_halflife_images": None}), 0, _shape(images), CPU)
    textbook.plain(state.networks)
    for network in state.networks.values():
        _never_frozen(network)
    for optimizer in state.optimizers.values():
        for group in optimizer.param_groups:
            group["fused"] = None
    noise = rng.generator(0, "noise")
    for batch in _fixed(images, settings):
        _train_step(state, batch, noise)
        turns.step()


def _train_step(state: training.Training, batch: Tensor, noise: torch.Generator) -> None:
    state.objective.train_step(state.networks, state.optimizers, batch, noise, state.settings)


def _never_frozen(network: nn.Module) -> None:
    def ignore(requires_grad: bool = True) -> nn.Module:
        del requires_grad
        return network

    network.requires_grad_ = ignore  # type: ignore[method-assign]


def _fixed(images: Images, settings: RunSettings) -> Iterator[Tensor]:
    """The same few batches again and again."""
    size = settings.batch_size
    few = [to_float(torch.from_numpy(np.array(images[n * size : (n + 1) * size]))) for n in range(_BARE_BATCHES)]
    return itertools.cycle(few)


def _multiply(turns: Turns, on: torch.device) -> None:
    """Products of square float32 matrices; what is counted as images are floating-point operations, in thousands of
    millions."""
    side = _MATMUL[on.type]
    a, b = torch.rand(2, side, side, device=on)
    turns.batch_size = 2 * side**3 / 1e9  # type: ignore[assignment]
    while True:
        torch.mm(a, b)
        turns.computed()  # else a thousand of them would be asked for in a moment
        turns.step()


def _triad(turns: Turns, on: torch.device) -> None:
    """a + b times a number into c, float32; what is counted as images are bytes read and written, in thousands of
    millions (McCalpin 1995, STREAM).
    """
    a, b, c = (torch.ones(_TRIAD, device=on) for _ in range(3))
    turns.batch_size = 3 * a.nbytes / 1e9  # type: ignore[assignment]
    while True:
        torch.add(a, b, alpha=0.5, out=c)
        turns.computed()
        turns.step()


def _shape(images: Images) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width


def _peak_mib(on: torch.device) -> float:
    """Largest resident memory of this process, without that of its loader's; on a GPU, of that which torch took."""
    if on.type == "cuda":
        return torch.cuda.max_memory_reserved(on) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage remembers the process that started this one, too
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    run(main)
