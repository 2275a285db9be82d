"""Archive to array, against the plain torchvision pipeline: images per second, in all and per core.

    python -m benchmarks.preprocessing [--raw data/raw/lfw] [--images 3000] [--out preprocessing.json]

Both make 64 x 64 pixels of the same JPEG files, by the same central crop and the same filter (Lanczos): of 250 x 250
(LFW's archive, or drawn), the central 128; of CelebA's frames, all their width. Plain: ImageFolder over loose files,
CenterCrop, Resize, ToTensor, in one loop. Ours: from the archive to the arrays on disk, card and checksums included.
They take turns; shown are medians. A core's rate counts the CPU time of all processes, so it means something on a
busy machine, too.
"""

import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from genlib.data.processed import preprocess, worker_count
from genlib.data.readers import celeba
from genlib.data.readers.decode import frame_of
from genlib.data.readers.lfw import ARCHIVE, TEST_LIST, TRAIN_LIST
from genlib.data.readers.tgz import read_tgz
from genlib.files import write_json
from genlib.settings import CelebaSettings, CelebaSource, LfwSettings, LfwSource
from stages.command import run

FRAME, CROP, SIZE = 250, 128, 64
SPLITS = ("train", "val", "test")

Measured = dict[str, float]


def main(
    raw: Annotated[
        Path | None, typer.Option(help="Folder with LFW's or CelebA's archive; without it, images are drawn.")
    ] = None,
    images: Annotated[int, typer.Option(min=3, help="How many images.")] = 3000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each pipeline has its turn.")] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure both pipelines on the same images and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if raw is not None and (raw / celeba.ARCHIVE).exists():
            count, crop, ours = _prepare_celeba(folder, raw, images)
        else:
            count, crop, ours = _prepare_lfw(folder, _drawn(images) if raw is None else _from_archive(raw, images))
        plain = _pipeline(folder, crop)
        turns: dict[str, list[Measured]] = {"torchvision": [], "genlib": []}
        for _ in range(rounds):
            turns["torchvision"].append(_measured(lambda: _plain(plain), len(plain)))
            turns["genlib"].append(_measured(ours, count))
        arrays = [np.load(folder / "out" / f"{split}.npy") for split in ("train", "val", "test")]
        difference = np.abs(_pixels(plain) - np.concatenate(arrays)[-len(plain) :])
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
        "largest_difference": int(difference.max()),
        "mean_difference": float(difference.mean()),
    }
    _print(results)
    if out is not None:
        write_json(out, results)


def _from_archive(raw: Path, images: int) -> dict[str, bytes]:
    """The first images of LFW's archive: person -> JPEG, one image of each person."""
    people: dict[str, bytes] = {}
    for name, content in read_tgz(raw / ARCHIVE):
        people.setdefault(name.split("/")[1], content)
        if len(people) == images:
            break
    return people


def _drawn(images: int) -> dict[str, bytes]:
    """Gradients with some noise, about as large as photographs when encoded."""
    random = np.random.default_rng(0)
    people = {}
    for index in range(images):
        corners = Image.fromarray(random.integers(0, 256, (3, 3, 3), np.uint8))
        smooth = np.asarray(corners.resize((FRAME, FRAME), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = smooth + random.integers(-6, 7, smooth.shape, np.int16)
        content = BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=80)
        people[f"P{index:06d}"] = content.getvalue()
    return people


def _prepare_lfw(folder: Path, people: dict[str, bytes]) -> tuple[int, int, Callable[[], None]]:
    """Loose files for ImageFolder, and an archive with its lists for ours: all but two people are in the test split.

    How many images ours reads, the side of the crop, and ours.
    """
    names = sorted(people)
    raw = folder / "lfw"
    raw.mkdir()
    with tarfile.open(raw / ARCHIVE, "w:gz") as archive:
        for name in names:
            header = tarfile.TarInfo(f"lfw-deepfunneled/{name}/{name}_0001.jpg")
            header.size = len(people[name])
            archive.addfile(header, BytesIO(people[name]))
    for name in names[2:]:
        loose = folder / "loose" / name / f"{name}_0001.jpg"
        loose.parent.mkdir(parents=True)
        loose.write_bytes(people[name])
    for list_name, listed in ((TRAIN_LIST, names[:2]), (TEST_LIST, names[2:])):
        (raw / list_name).write_text("".join([f"{len(listed)}\n", *(f"{name}\t1\n" for name in listed)]))
    write_json(raw / "origin.json", {"dataset": "lfw", "files": []})
    settings = LfwSettings(source=LfwSource(kind="lfw"), image_size=SIZE, crop=CROP, validation_images=1)
    return len(names), CROP, lambda: _discard(preprocess("lfw", settings, raw, folder / "out"))


def _prepare_celeba(folder: Path, raw: Path, images: int) -> tuple[int, int, Callable[[], None]]:
    """Loose files for ImageFolder in the order of the splits; the archive itself, and a limit, for ours."""
    limit = -(-images // len(SPLITS))
    settings = CelebaSettings(source=CelebaSource(kind="celeba"), image_size=SIZE, crop=celeba.FRAME[0], limit=limit)
    count, width = 0, 0
    for picture in celeba.read(settings, raw).pictures():
        loose = folder / "loose" / str(SPLITS.index(picture.split)) / Path(picture.member).name
        loose.parent.mkdir(parents=True, exist_ok=True)
        loose.write_bytes(bytes(picture.content))
        count, width = count + 1, frame_of(picture)[0]
    return count, width, lambda: _discard(preprocess("celeba", settings, raw, folder / "out"))


def _discard(card: dict[str, Any]) -> None:
    """The arrays are what counts."""


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


def _pixels(dataset: Any) -> NDArray[np.int64]:
    """All images as the plain pipeline makes them, back from 0..1 to 0..255: N C H W."""
    return np.stack([(image.numpy() * 255).round().astype(np.int64) for image, _ in dataset])


def _measured(work: Callable[[], None], images: int) -> Measured:
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
