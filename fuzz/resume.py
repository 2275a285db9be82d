"""Fuzzes `Keeper.restore`: the state of a stopped training, a safetensors file with its checksum."""

import contextlib
import io
import random
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzz.harness import FindingError, fuzz, instrumented
from fuzz.tensors import changed

with instrumented():
    from genlib import objectives, training
    from genlib.checkpoint import Keeper
    from genlib.settings import ProgressSettings

PROGRESS = ProgressSettings(frames=2, images=2, codes=2, rows_per_epoch=1, judged=2)
IMAGES = np.zeros((4, 1, 4, 4), np.uint8)
SETTINGS: dict[str, Any] = {
    **{"lane": "demo", "dataset": "digits", "features": "digits", "latent_dim": 2, "width": 2, "epochs": 3},
    **{"batch_size": 2, "flip": False, "lr": 1e-3, "ema_halflife_images": 10.0, "precision": "float32"},
    **{"model": "vae", "net": "mlp", "output": "sigmoid", "beta": 1.0},
}


def read(folder: Path, data: bytes) -> None:
    keeper = Keeper(folder, {})
    keeper.folder.mkdir(exist_ok=True)
    path = keeper.folder / "epoch-00001.safetensors"
    path.write_bytes(data)
    path.with_suffix(".sha256").write_text(sha256(data).hexdigest())
    state = _started()
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        keeper.restore(state)
    if not all(line.isprintable() and len(line) < 1000 for line in said.getvalue().splitlines()):
        raise FindingError(f"said {said.getvalue()!r}")
    if state.epoch == 0:
        assert said.getvalue()
    elif state.epoch < state.settings.epochs:  # a state that was taken is one to go on from
        rows = [epoch.row for epoch in training.run(state, IMAGES, IMAGES, PROGRESS, None)]
        assert len(rows) == state.settings.epochs - 1


def seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        keeper, state = Keeper(Path(folder), {}), _started()
        next(iter(training.run(state, IMAGES, IMAGES, PROGRESS, keeper)))
        return [path.read_bytes() for path in keeper.folder.glob("*.safetensors")]


def _started() -> training.Training:
    torch.manual_seed(0)
    settings = objectives.get("vae").Settings.model_validate(SETTINGS)
    return training.start(settings, 0, (1, 4, 4), torch.device("cpu"))


def mutate(data: bytes, chance: random.Random) -> bytes:
    return changed(data, chance)


if __name__ == "__main__":
    fuzz("resume", read, seeds(), mutate)
