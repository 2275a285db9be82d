"""Lanes to show: a quick one whose results are made up, and one of tiny models that were really trained."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.figures.animation import progress_gif
from genlib.figures.grids import grid, save_png
from genlib.files import write_json
from genlib.presentation.results import Folders
from genlib.settings import RunSettings

FIGURES = {
    "ae": ("samples.png", "curves.png"),
    "vae": ("samples.png", "curves.png", "progress.gif"),
    "gan": ("samples.png", "oddity.png"),
}
REAL = {"ae": ("reconstructions.png",), "vae": (), "gan": ("neighbours.png",)}


PROVENANCE: dict[str, Any] = {"commit": "0123456789abcdef", "dirty": True, "date": "2025-03-09T10:00:00+00:00"}
PROVENANCE |= {"hardware": "2 CPU cores", "device": "cpu", "torch": "2.11", "python": "3.11", "threads": 2}
PROVENANCE |= {"seconds": 200.4}


def pictures(folder: Path, names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        images = rng.integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
        if name.endswith(".gif"):
            progress_gif(np.stack([images, images[::-1]]), [0, 100], folder / name, columns=3)
        else:
            save_png(grid(images, 3), folder / name)


def write_run(folders: Folders, run: str, model: str, metrics: dict[str, float]) -> None:
    training = folders.runs / run / "training"
    layer = {"name": "0", "type": "Linear", "detail": "64 outputs <&>", "output": [64], "parameters": 4160}
    network = {"name": "encoder", "parameters": 4160, "input": [1, 8, 8], "output": [64], "layers": [layer]}
    write_json(training / "architecture.json", {"networks": [network]})
    write_json(training / "settings.json", {"seed": 7, "model": model, "lr": 1e-4, "ema_halflife_images": None})
    (training / "history.csv").write_text("epoch,images,train_generation\n1,600,3.5\n2,1200,2.5\n")
    write_json(training.parent / "provenance.json", PROVENANCE)
    write_json(folders.runs / run / "evaluation.json", evaluation(run, metrics))
    write_json(folders.metrics / f"{run}.json", metrics)
    pictures(folders.runs / run / "figures", FIGURES[model])
    pictures(folders.runs / run / "real", ("data.png", *REAL[model]))


LIMITS = {
    "fid": {"floor": 1.25, "ceiling": 120.5, "bias": 0.75},
    "kid": {"floor": -0.1, "ceiling": 50.0},
    "min_class_share": {"floor": 0.5, "ceiling": 0.25},
    "density": {"floor": 1.0, "ceiling": 0.125},
}


def evaluation(run: str, metrics: dict[str, float]) -> dict[str, Any]:
    """As evaluate writes it: what `metrics` has of samples with a deviation of 2 %, and density besides."""
    features = {"name": "classifier trained on toy", "sha256": "cd" * 32, "dimensions": 16}
    images = {"dataset": "toy", "edition": None, "image_size": 8, "crop": None, "test_sha256": "ef" * 32}
    card: dict[str, Any] = {"protocol": 1, "features": features, "images": images, "split": "test"}
    card |= {"reference": 300, "samples": 250, "sets": 5, "floor": "300 others", "ceiling": "300 draws"}
    card |= {"leading": "fid", "neighbours": 3, "checkpoint": "last", "seed": 7, "novel_fact": 11}
    samples = {
        key: {"mean": value, "std": 0.02 * value} | LIMITS[key]
        for key, value in (metrics | {"density": 0.625}).items()
        if key in LIMITS
    }
    encoding = {key: value for key, value in metrics.items() if key in ("recon_psnr", "nll")}
    if encoding:
        encoding["kl"] = 0.5
    everything: dict[str, Any] = {"run": run, "metrics": metrics, "samples": samples, "encoding": encoding}
    everything |= {"card": card, "class_shares": {"cat": 0.954, "dog": 0.046}, "new_section": {"depth": 3}}
    return everything | {"measuring_network": {"accuracy": 0.992, "baseline": None}, "dataset": dataset_card("toy")}


def dataset_card(name: str) -> dict[str, Any]:
    file = {"name": "train.gz", "bytes": 9912422, "sha256": "ab" * 32, "source": "mirror", "verified": "content"}
    card: dict[str, Any] = {"dataset": name, "origin": {"dataset": name, "files": [file]}, "image_size": 8}
    card |= {"channels": 1, "classes": ["cat", "dog"], "counts": {"train": 600, "val": 100, "test": 300}}
    card |= {"class_counts": {"train": [310, 290], "val": [51, 49], "test": [150, 150]}, "mean": [0.13], "std": [0.3]}
    card |= {"crop": None, "resize": None, "split_rule": "the last 100 of MNIST", "sha256": {}}
    card |= {"people": False, "edition": None, "labels": "classes", "people_counts": None}
    return card


def settings(dataset: str, model: str) -> RunSettings:
    return RunSettings(
        lane="demo", dataset=dataset, features=dataset, model=model, net="deck28", latent_dim=2, width=8, epochs=2,
        batch_size=4, flip=False, lr=0.1, ema_halflife_images=None, precision="float32",
    )  # fmt: skip


Lane = tuple[dict[str, RunSettings], Folders]


RUNS = {
    "toy-ae": {"fid": 90.0, "fid_std": 1.8, "kid": 40.0, "recon_psnr": 20.0},
    "toy-vae": {"fid": 12.3456, "fid_std": 0.25, "kid": 4.0, "min_class_share": 0.0456},
    "toy-gan": {"fid": 8.0, "fid_std": 0.16, "kid": 5.0, "min_class_share": 0.031, "novelty": 1234567},
}


def folders_in(root: Path) -> Folders:
    return Folders(root / "runs" / "demo", root / "metrics" / "demo")


# A lane whose models were really trained, for a moment, and drawn by the gallery

_COMMON: dict[str, Any] = {"lane": "demo", "net": "deck28", "latent_dim": 4, "width": 4, "epochs": 2, "batch_size": 10}
_COMMON |= {"flip": False, "lr": 2e-3, "ema_halflife_images": None, "precision": "float32"}
_OWN: dict[str, dict[str, Any]] = {
    "ae": {"output": "sigmoid", "noise": 0.0},
    "vae": {"output": "sigmoid", "beta": 1.0},
    "gan": {
        "discriminator_width": 4,
        "dropout": 0.3,
        "leaky_slope": 0.3,
        "real_label": 1.0,
        "beta1": 0.5,
        "lr_halflife_images": None,
    },
}
TRAINED: dict[str, dict[str, Any]] = {
    "digits-ae": {"model": "ae"},
    "digits-dae": {"model": "ae", "noise": 0.5},
    "digits-vae": {"model": "vae"},
    "digits-vae-2d": {"model": "vae", "latent_dim": 2},
    "digits-gan": {"model": "gan"},
    "faces-vae": {"model": "vae", "net": "dcgan", "width": 2},
    "faces-gan": {"model": "gan", "net": "dcgan", "width": 2, "ema_halflife_images": 50},
}


def toys(dataset: str, count: int, seed: int) -> NDArray[np.uint8]:
    """Images with something in them: bright bars on black, 28 x 28, or coloured ones, 32 x 32, for `faces`."""
    rng = np.random.default_rng(seed)
    channels, side = (3, 32) if dataset == "faces" else (1, 28)
    images = np.zeros((count, channels, side, side), np.uint8)
    for index, image in enumerate(images):
        left = 4 * (index % 6)
        image[:, 3:-3, left : left + 5] = rng.integers(120, 256, (channels, 1, 1))
    return images


def trained_settings(run: str) -> RunSettings:
    from genlib import objectives

    own, dataset = TRAINED[run], run.partition("-")[0]
    every = _COMMON | _OWN[own["model"]] | {"dataset": dataset, "features": dataset} | own
    return objectives.get(own["model"]).Settings.model_validate(every)


@cache
def trained_lane() -> Path:
    """A folder with runs/demo and metrics/demo of the runs `TRAINED`. To be read, not changed."""
    root = Path(tempfile.mkdtemp(prefix="genlib-lane-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for run in TRAINED:
        _train(run, folders_in(root))
    return root


def _train(run: str, folders: Folders) -> None:
    import torch

    from genlib import models, training
    from genlib.data.arrays import Split
    from genlib.figures import gallery
    from genlib.settings import ProgressSettings, SampleSettings
    from genlib.training import history

    settings, dataset, folder = trained_settings(run), run.partition("-")[0], folders.runs / run
    train, heldout = toys(dataset, 60, 1), toys(dataset, 20, 2)
    shape = (train.shape[1], train.shape[2], train.shape[3])
    state = training.start(settings, 0, shape, torch.device("cpu"))
    progress = ProgressSettings(frames=5, images=16, codes=20, rows_per_epoch=3, judged=8)
    for _ in training.run(state, train, heldout, progress, None):
        pass
    models.save(folder / "model.safetensors", run, 0, settings, shape, state.networks, state.averaged)
    history.write(folder / "training", state, shape)

    card = dataset_card(dataset) | {"image_size": shape[1], "channels": shape[0]}
    labels = np.arange(60, dtype=np.int64) % 2
    data = gallery.Data(card, Split(train, labels), Split(heldout, labels[:20]))
    for part in ("figures", "real"):
        (folder / part).mkdir(parents=True)
    model = models.load(folder / "model.safetensors")
    drawing = SampleSettings(
        images=64, grid=16, interpolations=3, manifold=4, gradient_draws=3, gradient_images=8, neighbours=2,
        attributes=(),
    )  # fmt: skip
    samples = model.sample(16).numpy()
    gallery.draw(model, samples, folder / "training", data, {}, drawing, folder / "figures", folder / "real")

    numbers = {"fid": 12.0, "kid": 4.0, "min_class_share": 0.05}
    everything = evaluation(run, numbers) | {"dataset": card}
    everything["samples"]["precision"] = {"mean": 0.5, "std": 0.02, "floor": 0.95, "ceiling": 0.3}
    everything["encoding"] = {"recon_mse": 0.01, "pca_mse": 0.02, "noisy_psnr": 9.0, "restored_psnr": 18.5}
    write_json(folder / "evaluation.json", everything)
    write_json(folder / "provenance.json", PROVENANCE)
    write_json(folders.metrics / f"{run}.json", numbers | {"precision": 0.5})
