"""States of a stopped training, from strangers: what no training can go on from is refused in one short line."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from strangers import parts_of, rewrite
from torch import Tensor

from genlib import training
from genlib.checkpoint import Keeper
from genlib.data.arrays import Images
from genlib.settings import ProgressSettings, RunSettings

CPU = torch.device("cpu")
Small = Callable[..., RunSettings]


@pytest.fixture
def state(small: Small, bars: Callable[[int], Images], progress: ProgressSettings, tmp_path: Path) -> Path:
    """The state after the first of two epochs."""
    keeper = Keeper(tmp_path / "work", {})
    next(iter(training.run(started(small), bars(20), bars(5), progress, keeper)))
    (path,) = keeper.folder.glob("*.safetensors")
    return path


def started(small: Small) -> training.Training:
    return training.start(small("vae", net="mlp"), 0, (1, 28, 28), CPU)


def restored(path: Path, small: Small, capsys: pytest.CaptureFixture[str]) -> tuple[training.Training, str]:
    """A training after the attempt to go on from the state, its checksum made right, and what was said of it."""
    path.with_suffix(".sha256").write_text(sha256(path.read_bytes()).hexdigest())
    found = started(small)
    Keeper(path.parent.parent, {}).restore(found)
    said = capsys.readouterr().err.strip()
    assert said.isprintable()
    assert len(said) < 2000
    return found, said


def test_a_state_as_it_should_be(state: Path, small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    found, said = restored(state, small, capsys)
    assert (found.epoch, said) == (1, "")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("optimizers.autoencoder.0.exp_avg", None),
        ("optimizers.autoencoder.0.exp_avg_sq", None),
        ("optimizers.autoencoder.0.more", torch.zeros(1)),
        ("optimizers.autoencoder.0.step", torch.tensor(-1e30)),
        ("optimizers.autoencoder.0.step", torch.tensor(float("nan"))),
        ("optimizers.autoencoder.0.step", torch.tensor(1)),
        ("optimizers.autoencoder.0.exp_avg", torch.int64),
        ("frames.samples.00000", torch.zeros(3)),
    ],
)
def test_a_state_that_a_training_cannot_go_on_from(
    name: str, change: Tensor | torch.dtype | None, state: Path, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, metadata = load_file(state), parts_of(state)[0]["__metadata__"]
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change if isinstance(change, Tensor) else tensors[name].to(change)
    state.write_bytes(save_tensors(tensors, metadata))
    found, said = restored(state, small, capsys)
    assert found.epoch == 0
    assert "is damaged (" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": {"autoencoder": [{"lr": 0.1, "betas": 0.5}]}},
        {"groups": {"autoencoder": [{}]}},
        {"groups": {"autoencoder": [{"lr": -1.0}]}},
        {"history": [{"epoch": 10**400}]},
        {"steps": [{"step": 1}, {"images": 1}]},
        {"steps": []},
        {"\x1b[2J": 1},
    ],
)
def test_a_state_of_other_metadata(
    changes: dict[str, Any], state: Path, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    header, body = parts_of(state)
    header["__metadata__"]["genlib"] = json.dumps(json.loads(header["__metadata__"]["genlib"]) | changes)
    rewrite(state, header, body)
    found, said = restored(state, small, capsys)
    assert found.epoch == 0
    assert "is damaged (" in said
