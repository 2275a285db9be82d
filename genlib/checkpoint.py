"""The state of a training, kept after each epoch outside DVC's outputs, so that a stopped run goes on.

A state is a safetensors file: tensors by name, everything else as JSON in its metadata. Nothing in it is executed, and
what is not of the shape and type that the training expects is refused.
"""

import importlib
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from genlib.claims import claimed
from genlib.device import cuda_libraries, processor
from genlib.errors import GenlibError
from genlib.files import digest, write_bytes
from genlib.models import weights
from genlib.settings import MOST, Frozen, ProgressSettings, RunSettings
from genlib.training.distributed import ALONE, Team

if TYPE_CHECKING:
    from genlib.training import Training

_KEPT = 2
_FRAMES_BYTES = 4 << 30  # the most that pictures of the progress may take

_HEADER_BYTES = 16 << 20  # the rows of its curves are in it
_MOST_STEPS = 1 << 40
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # what Adam keeps of each weight; every optimizer here is one

_Rows = list[dict[str, Annotated[float, Field(allow_inf_nan=False)] | Annotated[int, Field(ge=-MOST, le=MOST)]]]


class _Group(Frozen):
    """What a schedule moves in a parameter group; the rest is as the settings say."""

    lr: NonNegativeFloat


class _Metadata(Frozen):
    """What a state holds besides tensors.

    `groups`: of each optimizer, the numbers of its parameter groups that training may have changed. `graph`: whether
    its steps were replayed from a CUDA graph.
    """

    fingerprint: str
    epoch: PositiveInt
    best_epoch: PositiveInt | None
    groups: dict[str, list[_Group]]
    history: _Rows
    steps: _Rows
    seconds: NonNegativeFloat
    graph: bool = False


class Keeper:
    """Keeps the last two states of one run in `<work>/<fingerprint>/`; nobody else may train the run meanwhile.

    `identity` is all that decides the result: settings, seed, data, code, versions. A state of another identity lives
    in another folder and is never mixed in.

    `team`: only its first process reads and writes files, and hands the others the state that it goes on from.
    """

    def __init__(self, work: Path, identity: dict[str, Any], team: Team = ALONE) -> None:
        self.fingerprint = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.folder = work / self.fingerprint[:16]
        self._work = work
        self._team = team
        self._claim = claimed(work, "training this run") if team.first else nullcontext()

    def __enter__(self) -> "Keeper":
        self._claim.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._claim.__exit__(None, None, None)

    def keep(self, training: "Training") -> None:
        """Write the state after an epoch; the one before it stays as a fallback."""
        content = self._content(training)
        path = self.folder / f"epoch-{training.epoch:05d}.safetensors"
        # The format does not notice a damaged tensor; without its digest a state does not count.
        write_bytes(path, content)
        write_bytes(_digest_of(path), sha256(content).hexdigest().encode())
        for old in self._states()[:-_KEPT]:
            old.unlink()
            _digest_of(old).unlink(missing_ok=True)

    def restore(self, training: "Training") -> None:
        """Put `training` at the newest state that can be read, or leave it at its start; what is not used is said."""
        if self._team.first:
            self._restore_newest(training)
        if self._team.size > 1:
            self._spread(training)

    def _restore_newest(self, training: "Training") -> None:
        for path in reversed(self._states()):
            if (fault := self._restore(training, path)) is None:
                return
            print(f"warning: {path} is damaged ({fault}) and set aside; trying the state before it", file=sys.stderr)
            path.replace(path.with_suffix(".damaged"))
        if others := [
            folder for folder in self._work.glob("*/") if folder != self.folder and any(folder.glob("epoch-*"))
        ]:
            print(
                f"{self._work}: a stopped training with other params, data, code, versions, machine or number of "
                "processes is not gone on with; delete "
                f"{', '.join(folder.name for folder in sorted(others))} there to free the space",
                file=sys.stderr,
            )

    def note(self, text: str | None = None) -> str | None:
        """A short text kept beside the states (which MLflow run the training is): set it, or ask for it."""
        path = self.folder / "note"
        if text is not None:
            write_bytes(path, text.encode())
        return path.read_text() if path.exists() else None

    def discard(self) -> None:
        """Remove the states of this run: it is done."""
        rmtree(self.folder, ignore_errors=True)

    def _spread(self, training: "Training") -> None:
        """Put `training` where the first process has it. GenlibError if this process trains something else."""
        if self._team.handed(self.fingerprint.encode()) != self.fingerprint.encode():
            raise GenlibError(
                f"process {self._team.rank} has other params, data, code, versions or another processor than process "
                "0; make the hosts alike"
            )
        begun = self._team.first and training.epoch > 0
        content = self._team.handed(self._content(training) if begun else b"")
        if content and not self._team.first:
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            _put(training, _Metadata.model_validate_json(header["__metadata__"]["genlib"]), load_tensors(content))

    def _content(self, training: "Training") -> bytes:
        """A state, as a file has it."""
        metadata = _Metadata(
            fingerprint=self.fingerprint,
            epoch=training.epoch,
            best_epoch=training.best_epoch,
            groups={player: _numbers(optimizer) for player, optimizer in training.optimizers.items()},
            history=training.history,
            steps=training.steps,
            seconds=training.seconds,
            graph=training.graph,
        )
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(training).items()}
        return save_tensors(tensors, metadata={"genlib": metadata.model_dump_json()})

    def _restore(self, training: "Training", path: Path) -> str | None:
        """Put `training` at a state; or what is wrong with it, and then nothing has changed."""
        try:
            most = _FRAMES_BYTES + 8 * sum(tensor.nbytes for tensor in _tensors(training).values())
            if path.stat().st_size > most:
                raise ValueError(f"it has {path.stat().st_size} bytes, more than a state of this training can have")
            if _digest_of(path).read_bytes() != digest(path).encode():
                raise ValueError("its checksum differs")
            with weights.opened(path, _HEADER_BYTES) as (text, file):
                metadata = _Metadata.model_validate_json(text)
                if metadata.fingerprint != self.fingerprint:
                    raise ValueError("it is of another training")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            _check(training, metadata, tensors)
        except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
            reason = " ".join(str(error).split()).encode("unicode_escape").decode()
            return reason[:200] or type(error).__name__
        _put(training, metadata, tensors)
        return None

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.safetensors"))


def _tensors(training: "Training") -> dict[str, Tensor]:
    """Every tensor of a training by name: weights, moments of the optimizers, pictures of the progress."""
    parts = {f"networks.{name}": network.state_dict() for name, network in training.networks.items()}
    parts["averaged"] = {} if training.averaged is None else training.averaged.state_dict()
    parts["best"] = training.best or {}
    for player, optimizer in training.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            parts[f"optimizers.{player}.{index}"] = moments
    for kind, frames in training.frames.items():
        parts[f"frames.{kind}"] = {f"{index:05d}": frame for index, frame in enumerate(frames)}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _numbers(optimizer: torch.optim.Optimizer) -> list[_Group]:
    return [_Group(lr=float(group["lr"])) for group in optimizer.param_groups]


def _check(training: "Training", metadata: _Metadata, tensors: Mapping[str, Tensor]) -> None:
    """ValueError or LookupError if the state is not one that this training can have been in."""
    for part, like in _expected(training).items():
        _alike(part, _part(tensors, part), like)
    if best := _part(tensors, "best."):
        _alike("best.", best, training.networks[training.objective.DRAWS].state_dict())
    if bool(best) != (metadata.best_epoch is not None):
        raise ValueError(f"best_epoch is {metadata.best_epoch}, which does not go with its tensors")
    for player, optimizer in training.optimizers.items():
        if len(metadata.groups[player]) != len(optimizer.param_groups):
            raise ValueError(f"it has {len(metadata.groups[player])} parameter groups of {player}")
        moved = [weight for group in optimizer.param_groups for weight in group["params"]]
        for index, weight in enumerate(moved):
            like = dict.fromkeys(_MOMENTS, weight) | {"step": torch.zeros(())}
            moments = _part(tensors, f"optimizers.{player}.{index}.")
            _alike(f"optimizers.{player}.{index}.", moments, like)
            if not 0 <= moments["step"] <= _MOST_STEPS:
                raise ValueError(f"optimizers.{player}.{index}.step is {moments['step'].item()}")
    for kind in {name.split(".")[1] for name in tensors if name.startswith("frames.")}:
        first, *others = _part(tensors, f"frames.{kind}.").values()
        if any((frame.shape, frame.dtype) != (first.shape, first.dtype) for frame in others):
            raise ValueError(f"frames.{kind} are not all alike")
    if metadata.epoch > training.settings.epochs or len(metadata.history) != metadata.epoch or not metadata.steps:
        raise ValueError(f"epoch {metadata.epoch} with {len(metadata.history)} and {len(metadata.steps)} rows")
    for rows in (metadata.history, metadata.steps):
        if any(row.keys() != rows[0].keys() for row in rows):
            raise ValueError("rows of different columns")


def _expected(training: "Training") -> dict[str, Mapping[str, Tensor]]:
    expected: dict[str, Mapping[str, Tensor]] = {
        f"networks.{name}.": network.state_dict() for name, network in training.networks.items()
    }
    return expected | {"averaged.": {} if training.averaged is None else training.averaged.state_dict()}


def _alike(part: str, found: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    if found.keys() != like.keys():
        raise ValueError(f"{part}* is not what the network has: {', '.join(sorted(found.keys() ^ like.keys()))}")
    for name, tensor in like.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise ValueError(f"{part}{name} is {found[name].dtype} {tuple(found[name].shape)}")


def _put(training: "Training", metadata: _Metadata, tensors: Mapping[str, Tensor]) -> None:
    for name, network in training.networks.items():
        network.load_state_dict(_part(tensors, f"networks.{name}."))
    if training.averaged is not None:
        training.averaged.load_state_dict(_part(tensors, "averaged."))
    for player, optimizer in training.optimizers.items():
        state = optimizer.state_dict()
        for group, numbers in zip(state["param_groups"], metadata.groups[player], strict=True):
            group |= numbers.model_dump()
        indices = [index for group in state["param_groups"] for index in group["params"]]
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        state["state"] = {
            index: _laid_out(_part(tensors, f"optimizers.{player}.{index}."), weight)
            for index, weight in zip(indices, weights, strict=True)
        }
        optimizer.load_state_dict(state)
    kinds = sorted({name.split(".")[1] for name in tensors if name.startswith("frames.")})
    training.frames = {
        kind: [frame for _, frame in sorted(_part(tensors, f"frames.{kind}.").items())] for kind in kinds
    }
    training.epoch, training.seconds = metadata.epoch, metadata.seconds
    if training.graph and not metadata.graph:  # one training is of one kind of step
        print("CUDA graph of a training step: not used, as it was not before; steps are launched one by one")
        training.graph = False
    training.history, training.steps = metadata.history, metadata.steps
    training.best, training.best_epoch = _part(tensors, "best.") or None, metadata.best_epoch


def _laid_out(moments: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Moments in the order in memory that their weight has: a fused optimizer goes through both as they lie."""
    return {
        name: torch.empty_like(weight).copy_(tensor) if tensor.shape == weight.shape else tensor
        for name, tensor in moments.items()
    }


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def identity(
    settings: RunSettings,
    seed: int,
    threads: int,
    progress: ProgressSettings,
    data: dict[str, str],
    device: torch.device,
    network: str | None = None,
    processes: int = 1,
    graph: bool = False,
) -> dict[str, Any]:
    """All that decides what a training gives: settings, seed, data, the code that computes it, versions, machine.

    `network`: sha256 of the measuring network that judges samples; None for models that are not judged. `processes`:
    how many train together, by which sums are rounded. `graph`: whether steps may be replayed from a CUDA graph.
    """
    modules = ["training", "training.distributed", "training.averaging", "training.precision", "adam", "rng"]
    modules += ["data.batches", "data.streaming", "nets.layers", f"nets.{settings.net}"]
    modules += ["objectives._shared", f"objectives.{settings.model}"]
    if graph:
        modules.append("training.graphs")
    if network is not None:
        modules += ["training.judging", "features", "features.classifiers", "metrics.frechet", "metrics.classes"]
    return {
        "settings": settings.model_dump(),
        "seed": seed,
        "threads": threads,
        "progress": progress.model_dump(),
        "data": data,
        "network": network,
        "code": {name: _source_digest(f"genlib.{name}") for name in modules},
        "torch": torch.__version__,
        "cuda": cuda_libraries(device),
        "processor": processor(device),
        "processes": processes,
    }


def _source_digest(module: str) -> str:
    source = importlib.import_module(module).__file__
    if source is None:
        raise GenlibError(f"module {module} has no source file; run from a checkout")
    return digest(Path(source))
