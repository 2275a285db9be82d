"""How time and memory grow with the number of images and with their size.

    python -m benchmarks.growth [--out growth.json] [--plot growth.png]

Preprocessing of drawn JPEGs in LFW's format (one process), one training step of a VAE and of a GAN of the net dcgan
(the number of images is the batch), and the three costly parts of `evaluate` on random features: FID, KID, and
precision with recall. Each point is measured in a fresh process of one thread, after its imports: the shortest of three
times for what is short, and the largest resident memory above what the process had before. Exponents are slopes of
straight lines through logarithms, of all points and of the last two, in which what does not grow weighs least: 1 is
linear, 2 quadratic. Whether time grows no faster than it should is said of the last two.
"""

import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from genlib import params
from genlib.errors import GenlibError
from genlib.files import write_json
from stages.command import run

COUNTS = (1, 4, 16)
SIZES = (32, 64, 128)
SIZE = 64
"""The size at which the number of images varies; the size varies at the middle number."""

_DIMENSIONS = 128
_NEIGHBOURS = 5
_REPEATS = 3
_WIDTH = 16

_NOISE = 0.25  # of an exponent; the nets of larger images have a layer more, too

Row = dict[str, Any]
Exponents = tuple[float | None, float | None]
"""Of all points, and of the last two; None: not measured."""


@dataclass(frozen=True)
class Work:
    """Something whose growth is measured: `base` images are x1.

    `images` and `pixels`: the exponents of time that are right for it; None where images have no size.
    """

    name: str
    base: int
    images: float
    pixels: float | None

    def grows_well(self, found: Mapping[str, Exponents]) -> bool:
        """Whether time grows no faster than it should, within what noise adds."""
        ends = ((found["seconds_images"][1], self.images), (found["seconds_pixels"][1], self.pixels))
        return all(end is None or right is None or end <= right + _NOISE for end, right in ends)


WORKS = (
    Work("preprocess", 200, 1, 1),
    Work("vae step", 16, 1, 1),
    Work("gan step", 8, 1, 1),
    Work("fid", 500, 1, None),
    Work("kid", 500, 2, None),
    Work("precision, recall", 500, 2, None),
)


def main(
    factor: Annotated[float, typer.Option(min=0.01, help="Of the numbers of images: smaller is quicker.")] = 1.0,
    plot: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure and print a table."""
    params.load()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}\n{'':20}{'images':>8}{'size':>6}{'seconds':>10}{'MiB':>8}", flush=True)
    rows: list[Row] = []
    for work in WORKS:
        middle = COUNTS[len(COUNTS) // 2]
        places = [(times, SIZE) for times in COUNTS]
        if work.pixels is not None:
            places += [(middle, size) for size in SIZES if size != SIZE]
        for times, size in places:
            count = max(2, round(times * work.base * factor))
            seconds, mib = _alone(work.name, count, size)
            rows.append({"work": work.name, "images": count, "size": size, "seconds": seconds, "mib": mib})
            print(f"{work.name:20}{count:8}{size:6}{seconds:10.3f}{mib:8.1f}", flush=True)
    found = exponents(rows)
    print(f"\n{'exponents of':20}{'time/images':>14}{'time/pixels':>14}{'memory/images':>15}{'memory/pixels':>15}")
    for work in WORKS:
        cells = "".join(f"{_shown(found[work.name][key]):>{width}}" for key, width in _COLUMNS.items())
        print(f"{work.name:20}{cells}  {'as it should' if work.grows_well(found[work.name]) else 'too fast'}")
    if plot is not None:
        draw(rows, plot)
    if out is not None:
        write_json(out, {"machine": machine, "rows": rows, "exponents": found})


_COLUMNS = {"seconds_images": 14, "seconds_pixels": 14, "mib_images": 15, "mib_pixels": 15}


def exponents(rows: Sequence[Row]) -> dict[str, dict[str, Exponents]]:
    """For each work, the exponents with which seconds and MiB grow with images and with pixels."""
    return {
        work: {
            f"{quantity}_{along}": _fitted(*_curve(rows, work, along, quantity))
            for quantity in ("seconds", "mib")
            for along in ("images", "pixels")
        }
        for work in dict.fromkeys(row["work"] for row in rows)
    }


def _fitted(x: Sequence[float], y: Sequence[float]) -> Exponents:
    return exponent(x, y), exponent(x[-2:], y[-2:])


def exponent(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Slope of the straight line through the logarithms; None for fewer than 2 points or values of 0."""
    if len(x) < 2 or min(y) <= 0:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def draw(rows: Sequence[Row], path: Path) -> None:
    """Plot time and memory against images and against pixels on logarithmic scales (PNG)."""
    from genlib.figures.grids import save_png
    from genlib.figures.style import COLOURS, INK, look, panels, picture

    with look():
        figure, all_axes = panels(4, width=3.9)
        kinds = [(along, quantity) for quantity in ("seconds", "mib") for along in ("images", "pixels")]
        for axes, (along, quantity) in zip(all_axes, kinds, strict=True):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("images, times the fewest" if along == "images" else "pixels of an image")
            axes.set_title("seconds" if quantity == "seconds" else "MiB")
            for colour, work in zip(COLOURS, dict.fromkeys(row["work"] for row in rows), strict=False):
                x, y = _curve(rows, work, along, quantity)
                if len(x) > 1:
                    shown = [value / x[0] for value in x] if along == "images" else x
                    axes.plot(shown, y, "o-", color=colour, label=work)
            left, right = axes.get_xlim()
            least, most = axes.get_ylim()
            axes.plot((left, right), (least, least * right / left), "--", color=INK, linewidth=0.8, label="linear")
            axes.set(xlim=(left, right), ylim=(least, most))
        figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(WORKS) + 1)
        save_png(picture(figure), path)


def _curve(rows: Sequence[Row], work: str, along: str, quantity: str) -> tuple[list[float], list[float]]:
    """Images, or pixels of an image, and the quantity; of images of one size, or of one number of them."""
    of_work = [row for row in rows if row["work"] == work]
    if along == "images":
        points = [(row["images"], row[quantity]) for row in of_work if row["size"] == SIZE]
    else:
        sized = {row["images"] for row in of_work if row["size"] != SIZE}
        points = [(row["size"] ** 2, row[quantity]) for row in of_work if row["images"] in sized]
    points.sort()
    return [float(x) for x, _ in points], [float(y) for _, y in points]


def _alone(name: str, count: int, size: int) -> tuple[float, float]:
    """`measure` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(measure, name, count, size).result()


def measure(name: str, count: int, size: int) -> tuple[float, float]:
    """Seconds of a piece of work, and MiB that it took at most beyond those of the process before."""
    with tempfile.TemporaryDirectory() as folder:
        work, repeats = _WORK[name](count, size, Path(folder))
        before = _memory("VmRSS")
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        return min(seconds), max(0.0, _memory("VmHWM") - before)


def _preprocess(count: int, size: int, folder: Path) -> tuple[Callable[[], None], int]:
    from benchmarks.preprocessing import LFW, drawn
    from genlib.data.processed import WORKERS, preprocess

    os.environ[WORKERS] = "1"
    raw, settings = drawn(folder / "raw", max(3, count)), LFW.model_copy(update={"image_size": size})

    def work() -> None:
        preprocess("lfw", settings, raw, folder / "out")

    return work, 1


def _step(run_name: str) -> Callable[[int, int, Path], tuple[Callable[[], None], int]]:
    def prepare(count: int, size: int, folder: Path) -> tuple[Callable[[], None], int]:
        import torch

        from genlib import device, rng, training

        del folder
        on = device.choose(1)
        settings = params.load().run(run_name).model_copy(update={"width": _WIDTH, "batch_size": count})
        state = training.start(settings, 0, (3, size, size), on)
        images, noise = torch.rand(count, 3, size, size), rng.generator(0, "noise")

        def work() -> None:
            state.objective.train_step(state.networks, state.optimizers, images, noise, settings)

        return work, 1 + _REPEATS

    return prepare


def _metric(name: str) -> Callable[[int, int, Path], tuple[Callable[[], None], int]]:
    def prepare(count: int, size: int, folder: Path) -> tuple[Callable[[], None], int]:
        from genlib import device, rng
        from genlib.metrics.frechet import frechet_distance, statistics
        from genlib.metrics.kernel import kid
        from genlib.metrics.manifold import Manifold

        del size, folder
        device.choose(1)
        count = max(count, 40)
        real, samples = np.random.default_rng(0).standard_normal((2, count, _DIMENSIONS), np.float32)
        works: Mapping[str, Callable[[], object]] = {
            "fid": lambda: frechet_distance(statistics(real), statistics(samples)),
            "kid": lambda: kid(real, samples, rng.generator(0, "kid")),
            "precision, recall": lambda: Manifold(real, _NEIGHBOURS).compare(samples),
        }

        def work() -> None:
            works[name]()

        return work, _REPEATS

    return prepare


_WORK: Mapping[str, Callable[[int, int, Path], tuple[Callable[[], None], int]]] = {
    "preprocess": _preprocess,
    "vae step": _step("lfw-vae"),
    "gan step": _step("lfw-gan"),
    "fid": _metric("fid"),
    "kid": _metric("kid"),
    "precision, recall": _metric("precision, recall"),
}


def _memory(entry: str) -> float:
    """MiB of a line of /proc/self/status; GenlibError where there is no such file."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise GenlibError(f"{status}: no such file, so memory cannot be measured here; run this on Linux")
    return int(status.read_text().split(f"{entry}:")[1].split()[0]) / 1024


def _shown(exponents: Exponents) -> str:
    return " ".join("-" if value is None else f"{value:.2f}" for value in exponents)


if __name__ == "__main__":
    run(main)
