"""The state of a training, kept after each epoch outside DVC's outputs, so that a stopped run goes on."""

import importlib
import json
import sys
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from genlib.errors import GenlibError
from genlib.files import digest, staged_file, write_bytes
from genlib.settings import ProgressSettings, RunSettings

if TYPE_CHECKING:
    from genlib.training import Training

_KEPT = 2


class Keeper:
    """Keeps the last two states of one run in `<work>/<fingerprint>/`, under a lock.

    `identity` is all that decides the result: settings, seed, data, code, versions. A state of another identity lives
    in another folder and is never mixed in.
    """

    def __init__(self, work: Path, identity: dict[str, Any]) -> None:
        self.fingerprint = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.folder = work / self.fingerprint[:16]
        self._work = work
        self._lock = FileLock(work / "lock")

    def __enter__(self) -> "Keeper":
        self._work.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise GenlibError(
                f"{self._lock.lock_file}: another process is training this run; wait for it or stop it, then run again"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def keep(self, training: "Training") -> None:
        """Write the state after an epoch; the one before it stays as a fallback."""
        state = {
            "fingerprint": self.fingerprint,
            "epoch": training.epoch,
            "networks": {name: network.state_dict() for name, network in training.networks.items()},
            "averaged": None if training.averaged is None else training.averaged.state_dict(),
            "best": training.best,
            "best_epoch": training.best_epoch,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in training.optimizers.items()},
            "history": training.history,
            "steps": training.steps,
            "frames": training.frames,
            "seconds": training.seconds,
        }
        path = self.folder / f"epoch-{training.epoch:05d}.pt"
        with staged_file(path) as partial:
            torch.save(state, partial)
        # torch does not notice a damaged tensor; without its digest a state does not count.
        write_bytes(_digest_of(path), digest(path).encode())
        for old in self._states()[:-_KEPT]:
            old.unlink()
            _digest_of(old).unlink(missing_ok=True)

    def restore(self, training: "Training") -> None:
        """Put `training` at the newest state that can be read, or leave it at its start; what is corrupt is said."""
        for path in reversed(self._states()):
            state = self._load(path)
            if state is None:
                print(f"warning: {path} is damaged and set aside; trying the state before it", file=sys.stderr)
                path.rename(path.with_suffix(".damaged"))
                continue
            for name, network in training.networks.items():
                network.load_state_dict(state["networks"][name])
            if training.averaged is not None:
                training.averaged.load_state_dict(state["averaged"])
            for name, optimizer in training.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            training.epoch, training.frames = state["epoch"], state["frames"]
            training.history, training.steps = state["history"], state["steps"]
            training.seconds = state["seconds"]
            training.best, training.best_epoch = state["best"], state["best_epoch"]
            return

    def note(self, text: str | None = None) -> str | None:
        """A short text kept beside the states (which MLflow run the training is): set it, or ask for it."""
        path = self.folder / "note"
        if text is not None:
            with staged_file(path) as partial:
                partial.write_text(text)
        return path.read_text() if path.exists() else None

    def discard(self) -> None:
        """Remove the states of this run: it is done."""
        rmtree(self.folder, ignore_errors=True)

    def _load(self, path: Path) -> dict[str, Any] | None:
        try:
            if _digest_of(path).read_text() != digest(path):
                return None
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, UnpicklingError, EOFError, OSError, ValueError, LookupError):
            return None
        return state if isinstance(state, dict) and state.get("fingerprint") == self.fingerprint else None

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.pt"))


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def identity(
    settings: RunSettings,
    seed: int,
    progress: ProgressSettings,
    data: dict[str, str],
    device: torch.device,
    network: str | None = None,
) -> dict[str, Any]:
    """All that decides what a training gives: settings, seed, data, the code that computes it, versions.

    `network`: sha256 of the measuring network that judges samples; None for models that are not judged.
    """
    modules = ["training", "averaging", "rng", "data.batches", "nets.layers", f"nets.{settings.net}"]
    modules += ["objectives._losses", "objectives._posterior", f"objectives.{settings.model}"]
    if network is not None:
        modules += ["judging", "features", "classifiers", "metrics.frechet", "metrics.classes"]
    return {
        "settings": settings.model_dump(),
        "seed": seed,
        "progress": progress.model_dump(),
        "data": data,
        "network": network,
        "code": {name: _source_digest(f"genlib.{name}") for name in modules},
        "torch": torch.__version__,
        "device": device.type,
    }


def _source_digest(module: str) -> str:
    source = importlib.import_module(module).__file__
    if source is None:
        raise GenlibError(f"module {module} has no source file; run from a checkout")
    return digest(Path(source))
