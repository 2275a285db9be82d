"""What several test files need: small settings, an easy set of images, one thread, a project folder of its own."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from projects import FOLDER
from ruamel.yaml import YAML

from genlib import objectives
from genlib.settings import ProgressSettings, RunSettings

ROOT = Path(__file__).resolve().parent.parent

# Before torch is imported: sums in one order, also in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in genlib.device.choose


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the session's own process, not one that only runs tests
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="genlib-project-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True)


_RUN = {
    "lane": "demo",
    "dataset": "digits",
    "features": "digits",
    "net": "deck28",
    "latent_dim": 3,
    "width": 2,
    "epochs": 2,
    "batch_size": 10,
    "flip": False,
    "lr": 1e-3,
    "ema_halflife_images": None,
    "precision": "float32",
}
_OWN: dict[str, dict[str, Any]] = {
    "ae": {"output": "sigmoid", "noise": 0.0},
    "vae": {"output": "sigmoid", "beta": 1.0},
    "bernoulli_vae": {"lr_halflife_images": None},
    "gan": {
        "discriminator_width": 2,
        "dropout": 0.3,
        "leaky_slope": 0.3,
        "real_label": 1.0,
        "beta1": 0.5,
        "lr_halflife_images": None,
    },
}


@pytest.fixture
def raw() -> dict[str, Any]:
    """The committed params.yaml, parsed; a copy that a test may spoil."""
    parsed: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")
    return parsed


@pytest.fixture
def small() -> Callable[..., RunSettings]:
    """Settings of a tiny run: `small("gan", dropout=0.0)`."""

    def make(model: str, **changes: Any) -> RunSettings:
        return objectives.get(model).Settings.model_validate(_RUN | _OWN[model] | {"model": model} | changes)

    return make


@pytest.fixture
def progress() -> ProgressSettings:
    return ProgressSettings(frames=4, images=5, codes=7, rows_per_epoch=2, judged=8)


@pytest.fixture
def bars() -> Callable[[int], NDArray[np.uint8]]:
    """An easy set: image i, 1 x 28 x 28, has one bright bar, 4 columns wide, in the place i % 7."""

    def draw(count: int) -> NDArray[np.uint8]:
        images = np.zeros((count, 1, 28, 28), np.uint8)
        for index in range(count):
            left = 4 * (index % 7)
            images[index, 0, :, left : left + 4] = 230
        return images

    return draw


@pytest.fixture
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, the CPU, tracking off."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENLIB_TRACKING", "off")
    monkeypatch.setenv("GENLIB_DEVICE", "cpu")
    return tmp_path
