"""Archive to array, against the plain torchvision pipeline: images per second, in all and per core.

    python -m benchmarks.preprocessing [--raw data/raw/lfw] [--images 10000] [--out preprocessing.json]

Both make 64 x 64 pixels of the same JPEG files, by the same central crop and the same filter (Lanczos): of 250 x 250
(LFW's archive, or drawn), the central 128; of CelebA's frames, all their width. Plain: ImageFolder over loose files,
CenterCrop, Resize, ToTensor, in one loop of one process; making the files and listing them is not counted. Ours: all
that the stage does, from the archive and its lists to the arrays on disk, card and checksums included. Of an archive,
all images that its lists have. They take turns; shown are medians. A core's rate counts the CPU time of all processes,
so it means something on a busy machine, too.
"""

import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from genlib.data.processed import preprocess, worker_count
from genlib.data.readers import celeba, lfw
from genlib.data.readers.decode import frame_of
from genlib.data.readers.lfw import ARCHIVE, TEST_LIST, TRAIN_LIST
from genlib.data.readers.reading import Reading
from genlib.files import write_json
from genlib.settings import CelebaSettings, CelebaSource, LfwSettings, LfwSource
from stages.command import run

FRAME, CROP, SIZE = 250, 128, 64
SPLITS = ("train", "val", "test")
LFW = LfwSettings(source=LfwSource(kind="lfw"), image_size=SIZE, crop=CROP, validation_images=1)
CELEBA = CelebaSettings(source=CelebaSource(kind="celeba"), image_size=SIZE, crop=celeba.FRAME[0], limit=None)

Measured = dict[str, float]


def main(
    raw: Annotated[
        Path | None, typer.Option(help="Folder with LFW's or CelebA's archive; without it, images are drawn.")
    ] = None,
    images: Annotated[int, typer.Option(min=3, help="How many images to draw.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each pipeline has its turn.")] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure both pipelines on the same images and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        celeba_there = raw is not None and (raw / celeba.ARCHIVE).exists()
        archives = drawn(folder / "raw", images) if raw is None else raw
        dataset, settings = ("celeba", CELEBA) if celeba_there else ("lfw", LFW)
        reading = celeba.read(CELEBA, archives) if celeba_there else lfw.read("lfw", LFW, archives)
        count, crop = _unpack(folder / "loose", reading)
        ours = partial(preprocess, dataset, settings, archives, folder / "out")
        plain = _pipeline(folder, crop)
        turns: dict[str, list[Measured]] = {"torchvision": [], "genlib": []}
        for _ in range(rounds):
            turns["torchvision"].append(_measured(lambda: _plain(plain), count))
            turns["genlib"].append(_measured(ours, count))
        arrays = [np.load(folder / "out" / f"{split}.npy") for split in SPLITS]
        differences = _differences(plain, np.concatenate(arrays))
    rows = {pipeline: _median(measured) for pipeline, measured in turns.items()}
    results: dict[str, Any] = {
        "images": count,
        "source": "drawn" if raw is None else str(raw),
        "rounds": rounds,
        "workers": worker_count(os.environ),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        **rows,
        "ratio": rows["genlib"]["images_per_second"] / rows["torchvision"]["images_per_second"],
        "ratio_per_core": rows["genlib"]["images_per_cpu_second"] / rows["torchvision"]["images_per_cpu_second"],
        "largest_difference": int(np.flatnonzero(differences)[-1]),
        "mean_difference": float(np.average(np.arange(256), weights=differences)),
    }
    _print(results)
    if out is not None:
        write_json(out, results)


def drawn(raw: Path, images: int) -> Path:
    """An archive like LFW's, with its lists: gradients with some noise, about as large as photographs when encoded."""
    raw.mkdir()
    random = np.random.default_rng(0)
    names = [f"P{index:06d}" for index in range(images)]
    with tarfile.open(raw / ARCHIVE, "w:gz") as archive:
        for name in names:
            corners = Image.fromarray(random.integers(0, 256, (3, 3, 3), np.uint8))
            smooth = np.asarray(corners.resize((FRAME, FRAME), Image.Resampling.BICUBIC)).astype(np.int16)
            noisy = smooth + random.integers(-6, 7, smooth.shape, np.int16)
            content = BytesIO()
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=80)
            header = tarfile.TarInfo(f"lfw-deepfunneled/{name}/{name}_0001.jpg")
            header.size = len(content.getvalue())
            archive.addfile(header, BytesIO(content.getvalue()))
    for list_name, listed in ((TRAIN_LIST, names[:2]), (TEST_LIST, names[2:])):
        (raw / list_name).write_text("".join([f"{len(listed)}\n", *(f"{name}\t1\n" for name in listed)]))
    write_json(raw / "origin.json", {"dataset": "lfw", "files": []})
    return raw


def _unpack(loose: Path, reading: Reading) -> tuple[int, int]:
    """Loose files for ImageFolder, in the order of the arrays; how many, and the side of the crop."""
    for number in range(len(SPLITS)):
        (loose / str(number)).mkdir(parents=True)
    assert reading.crop is not None
    width = 0
    for picture in reading.pictures():
        assert isinstance(picture.content, bytes)
        (loose / str(SPLITS.index(picture.split)) / f"{picture.row:06d}.jpg").write_bytes(picture.content)
        width = frame_of(picture)[0]
    return sum(map(len, reading.labels.values())), reading.crop(width)


def _pipeline(folder: Path, crop: int) -> Any:
    import torch
    from torchvision import datasets, transforms  # type: ignore[import-not-found,import-untyped,unused-ignore]

    torch.set_num_threads(1)
    lanczos = transforms.InterpolationMode.LANCZOS
    steps = [transforms.CenterCrop(crop), transforms.Resize(SIZE, lanczos), transforms.ToTensor()]
    return datasets.ImageFolder(str(folder / "loose"), transforms.Compose(steps))


def _plain(dataset: Any) -> None:
    for index in range(len(dataset)):
        dataset[index]


def _differences(dataset: Any, arrays: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often levels of the plain pipeline, back from 0..1 to 0..255, differ from ours by 0, 1, 2, ..., 255."""
    counts = np.zeros(256, np.int64)
    for (image, _), ours in zip(dataset, arrays, strict=True):
        levels = (image.numpy() * 255).round().astype(np.int64)
        counts += np.bincount(abs(levels - ours).ravel(), minlength=256)
    return counts


def _measured(work: Callable[[], object], images: int) -> Measured:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    work()
    wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
    return {"images_per_second": images / wall, "images_per_cpu_second": images / cpu}


def _cpu_seconds() -> float:
    """CPU time of this process and of those it started that have ended."""
    return sum(os.times()[:4])


def _median(measured: list[Measured]) -> Measured:
    return {key: statistics.median(turn[key] for turn in measured) for key in measured[0]}


def _print(results: Mapping[str, Any]) -> None:
    print(f"{results['images']} images, {results['source']}; {results['workers']} workers, {results['machine']}")
    print(f"{'':12}{'images/s':>10}{'images/s/core':>15}")
    for name in ("torchvision", "genlib"):
        print(f"{name:12}{results[name]['images_per_second']:10.0f}{results[name]['images_per_cpu_second']:15.0f}")
    print(f"{'ratio':12}{results['ratio']:10.2f}{results['ratio_per_core']:15.2f}")
    print(f"pixels differ by up to {results['largest_difference']}, {results['mean_difference']:.5f} on average")


if __name__ == "__main__":
    run(main)
