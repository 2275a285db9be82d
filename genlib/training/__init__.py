"""The one training loop: steps, history, pictures of the progress, checkpoints, resume."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from genlib import objectives, rng
from genlib.data.arrays import Images
from genlib.data.batches import in_order, placed, shuffled, to_float, to_uint8
from genlib.data.streaming import Streamed
from genlib.errors import GenlibError
from genlib.memory import fitting_batch, is_shortage
from genlib.settings import ProgressSettings, RunSettings
from genlib.training import graphs, judging
from genlib.training.averaging import average_into, decay
from genlib.training.distributed import ALONE, Team
from genlib.training.judging import Judge
from genlib.training.precision import set_precision

if TYPE_CHECKING:
    from genlib.checkpoint import Keeper

_HELDOUT_BATCH = 500
_DRAW_BATCH = 250
_STATISTICS_IMAGES = 2048  # behind the averaged network's batch norm: of 512, FID varied by a tenth with their noise
_FRAME_STATISTICS_IMAGES = 512  # the same for a picture of the progress, of which there may be several in an epoch

Row = dict[str, float]


@dataclass(frozen=True)
class Epoch:
    """What one epoch brought.

    `row`: means of the training losses (`train_...`) and of the held-out ones (`val_...`), and what the judge said of
    samples (`val_...`). `steps`: the rows of the training curves. `picture`: the newest picture of the progress, uint8
    N C H W. `alarm`: why the samples look like mode collapse, None if they do not or are not judged.
    """

    number: int
    images: int
    seconds: float
    row: Row
    steps: list[Row]
    picture: Images
    alarm: str | None


@dataclass
class Training:
    """All that training holds; `run` moves it on, epoch by epoch.

    `averaged` is the running average of the network that draws, or None when EMA is off. `best`: weights and buffers,
    on the CPU, of the network to draw with after the epoch `best_epoch`, the one with the lowest FID on validation
    images; None where samples are not judged. `seconds` of work, over all the processes that took turns at it.

    `team`: the processes that train together, each with the same of all this but for history, steps, frames and best,
    which only the first one has. `together`: to be entered for a step of theirs. `graph`: whether a step is replayed
    from a CUDA graph; `run` sets it to False where that cannot be.
    """

    settings: RunSettings
    objective: objectives.Objective
    seed: int
    device: torch.device
    team: Team
    together: AbstractContextManager[Any]
    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    averaged: nn.Module | None
    epoch: int
    history: list[Row]
    steps: list[Row]
    frames: dict[str, list[Tensor]]
    seconds: float = 0.0
    best: dict[str, Tensor] | None = None
    best_epoch: int | None = None
    graph: bool = False

    def drawing(self) -> dict[str, nn.Module]:
        """The networks to draw images with: the averaged one in place of the last one, if there is one."""
        return self.networks | ({self.objective.DRAWS: self.averaged} if self.averaged is not None else {})


def start(
    settings: RunSettings,
    seed: int,
    shape: tuple[int, int, int],
    on: torch.device,
    team: Team = ALONE,
    graph: bool = True,
) -> Training:
    """Networks with fresh weights and their optimizers. `shape` is C H W.

    `graph`: on a CUDA device that nobody shares the training with, steps may be replayed from a graph.

    Raises GenlibError for a batch size that the team cannot share evenly.
    """
    team.check(settings.batch_size)
    objective = objectives.get(settings.model)
    with rng.default_generators(seed, "weights"):
        networks = {name: network.to(on) for name, network in objective.build(settings, shape).items()}
    averaged = None
    if settings.ema_halflife_images is not None:
        with rng.default_generators(seed, "weights"):
            averaged = objective.build(settings, shape)[objective.DRAWS].to(on).requires_grad_(False)
    optimizers = {player: objective.optimizer(player, networks, settings) for player in objective.PLAYERS}
    together = team.together(networks, settings.batch_size)
    training = Training(settings, objective, seed, on, team, together, networks, optimizers, averaged, 0, [], [], {})
    training.graph = graph and on.type == "cuda" and team.size == 1
    return training


def run(
    training: Training,
    train: Images,
    val: Images,
    progress: ProgressSettings,
    keeper: "Keeper | None",
    judge: Judge | None = None,
) -> Iterator[Epoch]:
    """Train to the end of the settings' epochs, yielding after each; with a keeper, go on from its last state.

    In a team, all processes call it, and what is judged, recorded, kept and yielded is by the first one only.

    Args:
        training: fresh from `start`.
        train: uint8 N C H W.
        val: uint8 M C H W, for the held-out losses and the pictures of the progress.
        progress: what to record on the way.
        keeper: where the state is kept after each epoch.
        judge: judges samples after each epoch; with one, the best checkpoint is kept.

    Raises:
        GenlibError: a loss is not finite; the state of the epoch before is kept.
    """
    settings, objective, seed, team = training.settings, training.objective, training.seed, training.team
    if len(train) < settings.batch_size:
        raise GenlibError(f"batch_size: {settings.batch_size} is more than the {len(train)} training images; lower it")
    precision = set_precision(settings.precision, training.device)
    if keeper is not None:
        keeper.restore(training)

    # Put the data on the device and lay out the schedule.
    train_images, val_images = placed((train, val), training.device, say=team.first)
    steps_per_epoch = len(train) // settings.batch_size
    frame_steps = _frame_steps(steps_per_epoch * settings.epochs, progress.frames)
    row_ends = sorted(
        {math.ceil(steps_per_epoch * n / progress.rows_per_epoch) for n in range(1, progress.rows_per_epoch + 1)}
    )
    noise = torch.Generator(training.device)
    step = _chosen_step(training, train_images, noise, precision)
    if training.epoch == 0 and team.first:
        _record_frame(training, train_images, val_images, progress, 0)

    while training.epoch < settings.epochs:
        began = time.perf_counter()
        epoch = training.epoch + 1
        noise.manual_seed(rng.derive(seed, "noise", epoch))
        losses: list[Tensor] = []

        # Train on every image once.
        own = team.rows(settings.batch_size)
        batches = shuffled(train_images, settings.batch_size, seed, epoch, settings.flip, own)
        with rng.default_generators(seed, "dropout", epoch), precision, closing(batches):
            shown = None if team.first else True
            bar = tqdm(batches, f"epoch {epoch}/{settings.epochs}", steps_per_epoch, leave=False, disable=shown)
            for index, images in enumerate(bar, start=1):
                done = training.epoch * steps_per_epoch + index
                step_losses = step(images)
                losses.append(torch.stack([step_losses[name] for name in objective.LOSSES]))
                if training.averaged is not None and settings.ema_halflife_images is not None:
                    kept = decay(settings.batch_size, settings.ema_halflife_images, done * settings.batch_size)
                    average_into(training.averaged, training.networks[objective.DRAWS], kept)
                # A GPU is asked for its losses at the end of the epoch only: to ask is to wait for it.
                if index in row_ends and training.device.type == "cpu":
                    _checked(team.mean(torch.stack(losses)), objective.LOSSES, epoch, done)
                if done in frame_steps and team.first:
                    _record_frame(training, train_images, val_images, progress, done)

        # Take down the losses, each row of the curves the mean over its steps.
        mean_losses = team.mean(torch.stack(losses))
        values = np.array(_checked(mean_losses, objective.LOSSES, epoch, epoch * steps_per_epoch))
        team.check_alike(training.networks, epoch)
        if not team.first:
            training.epoch = epoch
            continue
        rows: list[Row] = []
        for first, end in pairwise([0, *row_ends]):
            done = training.epoch * steps_per_epoch + end
            of_row = dict(zip(objective.LOSSES, values[first:end].mean(axis=0).tolist(), strict=True))
            rows.append({"step": done, "images": done * settings.batch_size, **of_row})
        seen = epoch * steps_per_epoch * settings.batch_size
        row: Row = {"epoch": epoch, "images": seen}
        row |= dict(zip((f"train_{name}" for name in objective.LOSSES), values.mean(axis=0).tolist(), strict=True))

        # Measure the held-out losses, judge samples, write down the epoch and keep the state.
        settle(training, train_images)
        row |= {f"val_{name}": value for name, value in heldout(training, val_images, epoch).items()}
        alarm = None
        if judge is not None:
            judged, alarm = _judge_samples(training, judge)
            row |= judged
        training.epoch = epoch
        training.history.append(row)
        training.steps += rows
        seconds = time.perf_counter() - began
        training.seconds += seconds
        if keeper is not None:
            keeper.keep(training)
        picture = training.frames["samples"][-1].numpy()
        yield Epoch(epoch, seen, seconds, row, rows, picture, alarm)


def _chosen_step(
    training: Training, train_images: Tensor | Streamed, noise: torch.Generator, precision: AbstractContextManager[Any]
) -> graphs.Step:
    """A training step as the model has it or, where that is asked for and can be, as a CUDA graph of it."""
    step: graphs.Step = partial(_step, training, noise)
    if training.graph:
        with precision:
            images = to_float(train_images[: training.settings.batch_size])
            images = images.contiguous(memory_format=torch.channels_last)  # as `shuffled` gives them
            replayed = graphs.captured(training, step, noise, images)
        if replayed is None and training.epoch > 0:  # one training is of one kind of step
            raise GenlibError(
                "CUDA graph of a training step: the training was begun with one, and it cannot be made now, as said "
                "above; mend that and run again to go on, or set GENLIB_CUDA_GRAPH=off to begin anew without"
            )
        training.graph = replayed is not None
        step = replayed or step
    return step


def _step(training: Training, noise: torch.Generator, images: Tensor) -> dict[str, Tensor]:
    """One training step; if memory does not suffice for it, a GenlibError says which batch would have fitted."""
    settings = training.settings

    def step(batch: Tensor) -> dict[str, Tensor]:
        with training.together:
            return training.objective.train_step(training.networks, training.optimizers, batch, noise, settings)

    try:
        return step(images)
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
    if training.team.size > 1:
        raise GenlibError(
            f"out of memory on {training.device} with batch_size {settings.batch_size} shared by {training.team.size} "
            "processes; lower it, take more processes, or use devices with more memory"
        )
    # Out of that block, whose traceback holds what the step had allocated.
    fits = fitting_batch(lambda size: step(images[:size]), len(images))
    remedy = f"{fits} fits: set batch_size: {fits}" if fits else "not even 2 fit: lower width or image_size"
    raise GenlibError(
        f"out of memory on {training.device} with batch_size {settings.batch_size}; {remedy} for this run, "
        "or use a device with more memory"
    )


@torch.no_grad()
def heldout(training: Training, val_images: Tensor | Streamed, epoch: int) -> Row:
    """Mean held-out losses, networks in evaluation mode and without averaging, the same noise at every epoch."""
    objective = training.objective
    noise = rng.generator(training.seed, "held-out noise", 0, training.device)
    totals = torch.zeros(len(objective.LOSSES), dtype=torch.float64, device=training.device)
    with _evaluation(training.networks):
        for images in in_order(val_images, _HELDOUT_BATCH):
            losses = objective.heldout_losses(training.networks, images, noise, training.settings)
            totals += torch.stack([losses[name].double().sum() for name in objective.LOSSES])
    means = (totals / len(val_images))[None]
    return dict(zip(objective.LOSSES, _checked(means, objective.LOSSES, epoch, None)[0], strict=True))


@torch.no_grad()
def settle(training: Training, train_images: Tensor | Streamed, count: int = _STATISTICS_IMAGES) -> None:
    """Measure the averaged network's batch norm statistics, on so many images: the last weights' do not fit averages.

    With them, images come out pale. Brock et al. 2018 (BigGAN, section 3) measure "standing statistics" likewise.
    """
    if training.averaged is None:
        return
    objective, size = training.objective, training.settings.batch_size
    whole = max(1, min(count, len(train_images)) // size) * size
    noise = rng.generator(training.seed, "statistics", 0, training.device)
    with _evaluation(training.networks):
        batches = in_order(train_images[:whole], size)
        update_bn(
            (objective.fed(training.networks, images, noise, training.settings) for images in batches),
            _normalizing(training.averaged),
        )


def _normalizing(network: nn.Module) -> nn.Module:
    """The layers of a sequence up to its last batch norm, none if it has none: the others decide no statistics."""
    if type(network) is not nn.Sequential:
        return network
    normalizes = [any(isinstance(part, _BatchNorm) for part in layer.modules()) for layer in network]
    return network[: len(network) - [*reversed(normalizes), True].index(True)].train(network.training)


@torch.no_grad()
def _judge_samples(training: Training, judge: Judge) -> tuple[Row, str | None]:
    """What the judge says of samples of the epoch that ends, and the alarm, if any; the best checkpoint so far is kept.

    The network that draws is settled, as it would be saved. The same latents every time.
    """
    objective, networks = training.objective, training.drawing()
    codes = rng.latents(judge.count, training.settings.latent_dim, training.seed, "judged").to(training.device)
    with _evaluation(networks):
        batches = torch.split(codes, _DRAW_BATCH)
        samples = torch.cat([to_uint8(objective.draw(networks, batch)).cpu() for batch in batches])
    numbers = judge.measure(samples.numpy())
    earlier = [{name: row[f"val_{name}"] for name in numbers} for row in training.history]
    alarm = judging.collapse(numbers, earlier, training.settings.epochs, len(judge.network.classes))
    if all(numbers["fid"] < row["fid"] for row in earlier):
        training.best_epoch = len(earlier) + 1
        training.best = {
            name: tensor.to("cpu", copy=True) for name, tensor in networks[objective.DRAWS].state_dict().items()
        }
    return {f"val_{name}": value for name, value in numbers.items()} | {"val_collapse": float(alarm is not None)}, alarm


@torch.no_grad()
def _record_frame(
    training: Training,
    train_images: Tensor | Streamed,
    val_images: Tensor | Streamed,
    progress: ProgressSettings,
    step: int,
) -> None:
    """Add a picture of the progress: the same latents and held-out images every time."""
    settle(training, train_images, _FRAME_STATISTICS_IMAGES)
    objective, settings = training.objective, training.settings
    codes = rng.latents(progress.images, settings.latent_dim, training.seed, "progress").to(training.device)
    networks = training.drawing()
    frame = {"images_seen": torch.tensor(step * settings.batch_size)}
    with _evaluation(networks):
        images = to_float(val_images[: progress.images])
        frame["samples"] = to_uint8(objective.preview(networks, codes, images)).cpu()
        if settings.latent_dim == 2 and hasattr(objective, "encode"):
            frame["codes"] = objective.encode(networks, to_float(val_images[: progress.codes])).float().cpu()
    for name, value in frame.items():
        training.frames.setdefault(name, []).append(value)


def summary(epoch: Epoch, epochs: int) -> str:
    """An epoch in one line."""
    losses = ", ".join(f"{name} {value:.4g}" for name, value in epoch.row.items() if "_" in name)
    return f"epoch {epoch.number}/{epochs} in {epoch.seconds:.0f} s: {losses}"


def _checked(losses: Tensor, names: tuple[str, ...], epoch: int, last_step: int | None) -> list[list[float]]:
    """Losses (steps x names) as floats; GenlibError at the first that is not finite."""
    values: list[list[float]] = losses.tolist()
    for row, index in zip(values, range(len(values)), strict=True):
        for name, value in zip(names, row, strict=True):
            if not math.isfinite(value):
                place = "held-out images" if last_step is None else f"step {last_step - len(values) + 1 + index}"
                raise GenlibError(
                    f"loss {name} is {value} at epoch {epoch}, {place}; the state of the epoch before is kept; "
                    "lower lr (or set precision: float32) and run again"
                )
    return values


def _frame_steps(steps: int, frames: int) -> set[int]:
    """Steps at which a picture is due: dense at first, when most happens; the last step always."""
    return {round(steps ** (n / (frames - 1))) for n in range(1, frames)}


class _evaluation:  # noqa: N801  (reads as a statement: with _evaluation(networks))
    """Networks in evaluation mode inside the block, in training mode after it."""

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        self.networks = networks

    def __enter__(self) -> None:
        for network in self.networks.values():
            network.eval()

    def __exit__(self, *_: Any) -> None:
        for network in self.networks.values():
            network.train()
