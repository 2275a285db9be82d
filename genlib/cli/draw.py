"""Commands sample, reconstruct and interpolate: one picture from a trained model."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genlib.errors import GenlibError

if TYPE_CHECKING:
    from PIL import Image

    from genlib.data.arrays import Images
    from genlib.library import TrainedModel

_PHOTO_SIDE = 256  # pixels: about as large as an image is shown beside its reconstruction


class Kept(StrEnum):
    """Which weights draw."""

    last = "last"
    best = "best"


Run = Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml, or the path of a model.safetensors.")]
Out = Annotated[Path, typer.Argument(metavar="OUT.png", help="Picture to write, PNG.")]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu, cuda or cuda:1; without it, what GENLIB_DEVICE says, else auto.", show_default=False),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the random codes: the same seed, the same images.")]
Invert = Annotated[
    bool, typer.Option("--invert", help="Swap dark and bright in photos: MNIST's digits are white on black.")
]


def sample(
    run: Run,
    out: Out,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="Images to draw.")] = 64,
    seed: Seed = 0,
    checkpoint: Annotated[
        Kept, typer.Option(help="Weights after the last epoch, or (GANs) after that of the lowest FID on validation.")
    ] = Kept.last,
    columns: Annotated[
        int | None,
        typer.Option(min=1, help="Images a row, no more than drawn; without it, as many as rows.", show_default=False),
    ] = None,
    device: Device = None,
) -> None:
    """Draw images from random codes, as one picture."""
    _png(out)
    model = _load(run, device)
    from genlib.library import grid

    images = model.sample(count, seed, checkpoint.value)
    _write(grid(images, columns and min(columns, count)), out)
    print(f"{model.run}: {count:,} images of seed {seed} in {out}")
    _warn_without_prior(model)


def reconstruct(
    run: Run,
    photo: Annotated[Path, typer.Argument(help="Any picture: JPEG, PNG and others. Its central square is taken.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OUT.png]", help="Picture to write, PNG; without it, PHOTO-RUN.png here.", show_default=False
        ),
    ] = None,
    invert: Invert = False,
    device: Device = None,
) -> None:
    """Show a photo, as the model sees it, beside what it makes of it."""
    if out is not None:
        _png(out)
        _spare(out, photo)
    model = _load(run, device)
    from genlib.figures.grids import beside, captioned
    from genlib.library import grid
    from genlib.metrics.reconstruction import image_mse

    written = out or Path(f"{photo.stem}-{model.run}.png")
    _spare(written, photo)
    original = _photos(model, invert, photo)
    made = model.reconstruct(original)
    scale = max(1, _PHOTO_SIDE // model.shape[2])
    shown = [captioned(grid(image, 1, scale), text) for image, text in ((original, "original"), (made, model.run))]
    _write(beside(shown), written)
    error = float(image_mse(original, made)[0])
    print(f"{model.run}: squared error {error:.4f} per pixel (of 0 to 1); original and reconstruction in {written}")


def interpolate(
    run: Run,
    out: Out,
    start: Annotated[
        Path | None, typer.Option("--from", help="Photo to start from; goes with --to.", show_default=False)
    ] = None,
    end: Annotated[Path | None, typer.Option("--to", help="Photo to end at.", show_default=False)] = None,
    steps: Annotated[int, typer.Option(min=2, max=100, help="Images from one end to the other, both included.")] = 10,
    rows: Annotated[int, typer.Option(min=1, max=100, help="Pairs of random codes, one row for each.")] = 8,
    seed: Seed = 0,
    invert: Invert = False,
    device: Device = None,
) -> None:
    """Draw what lies between two photos, or between pairs of random codes.

    Two photos need a model that encodes (ae, vae): they stand at the ends of the row.
    """
    _png(out)
    if (start is None) != (end is None):
        raise GenlibError("interpolate: one photo is given; give two, --from and --to, or none for random codes")
    _spare(out, *(photo for photo in (start, end) if photo is not None))
    model = _load(run, device)
    import numpy as np

    from genlib.library import grid

    if start is not None and end is not None:
        ends = _photos(model, invert, start, end)
        codes = model.encode(ends)
        images = np.concatenate([ends[:1], model.interpolate(codes[:1], codes[1:], steps), ends[1:]])
        _write(grid(images, steps + 2), out)
        print(f"{model.run}: {steps} images between {start} and {end}, the photos at both ends, in {out}")
        return
    codes = model.random_codes(2 * rows, seed)
    _write(grid(model.interpolate(codes[:rows], codes[rows:], steps), steps), out)
    print(f"{model.run}: {rows} x {steps} images between random codes of seed {seed} in {out}")
    _warn_without_prior(model)


def _load(run: str, wish: str | None) -> "TrainedModel":
    """The trained model of a run or a file, on the device wished for."""
    path = model_file(run)
    from genlib import device
    from genlib.library import load

    if wish is not None:
        os.environ["GENLIB_DEVICE"] = wish
    return load(path, device.choose(threads=1))


def _photos(model: "TrainedModel", invert: bool, *paths: Path) -> "Images":
    """Photos as the model takes images, uint8 N C H W."""
    import numpy as np

    images = np.concatenate([model.prepare(path) for path in paths])
    return 255 - images if invert else images


def model_file(run: str) -> Path:
    """The model file that a run's name or a path stands for. GenlibError: no such run, or it is not trained."""
    if _is_path(run):
        return Path(run)
    from genlib import params

    path = Path("runs", params.load().run(run).lane, run, "model.safetensors")
    if not path.is_file():
        raise GenlibError(f"{path}: {run} is not trained here; run dvc repro train@{run}")
    return path


def _is_path(run: str) -> bool:
    return "/" in run or os.sep in run or run.endswith(".safetensors")


def _png(path: Path) -> None:
    """GenlibError, before any work, if a path is no place for a PNG."""
    if path.suffix.lower() != ".png":
        raise GenlibError(f"{path}: the picture is written as PNG; give it a name that ends in .png")
    if path.is_dir():
        raise GenlibError(f"{path}: is a folder; name a file")


def _spare(out: Path, *photos: Path) -> None:
    """GenlibError if a photo, by whatever name or link, is the file to write."""
    for photo in photos:
        if out.exists() and photo.exists() and out.samefile(photo):
            raise GenlibError(f"{out}: is the photo itself; name another file")


def _write(picture: "Image.Image", path: Path) -> None:
    from genlib.figures.grids import save_png

    try:
        save_png(picture, path)
    except OSError as error:  # of places such as /proc, which are no disks and say what no disk says
        raise GenlibError(f"{path}: cannot be written ({error.strerror}); name a file in another folder") from error


def _warn_without_prior(model: "TrainedModel") -> None:
    if not model.has_prior:
        print(
            f"note: {model.run}: its codes were never made to follow the distribution that random ones are drawn from, "
            "so these pictures are not what it learned",
            file=sys.stderr,
        )
