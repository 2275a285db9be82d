"""Plots of numbers: losses and judgements over training, variances of gradients."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from genlib.errors import GenlibError
from genlib.figures.grids import save_png
from genlib.figures.style import COLOURS, INK, look, panels, picture

_BLUE, _RED, _ORANGE = COLOURS[0], COLOURS[2], COLOURS[6]
_TITLES = {
    "generation": "generation loss: squared error per image",
    "latent": "latent loss: KL to N(0, I), nats per image",
}
_Columns = dict[str, list[float]]


def loss_curves(steps_csv: Path, history_csv: Path, path: Path) -> None:
    """Plot a run's losses over the training images seen (PNG).

    Autoencoders: one panel per loss (`generation`, and `latent` where there is one), the training loss as a line and
    the held-out one as dots. GANs: the two players' losses, D's mean probability for real and generated images with the
    line 0.5 at which it can no longer tell them apart, and, where they are recorded, the shares of real and of
    generated images that D takes for what they are, and the FID of each epoch's samples.

    Args:
        steps_csv: columns `step,images,<loss>...`, several rows per epoch.
        history_csv: columns `epoch,images,train_<loss>...,val_<loss>...`, one row per epoch; `val_fid` and
            `val_collapse` where samples were judged.
        path: the PNG to write.

    Raises:
        GenlibError: a file is missing, empty, lacks a column or holds something that is not a number.
    """
    steps, history = _read(steps_csv), _read(history_csv)
    with look():
        if "discriminator" in steps:
            figure = _game((steps_csv, steps), (history_csv, history))
        else:
            names = [name for name in _TITLES if name in steps]
            if not names:
                raise GenlibError(f"{steps_csv}: no column 'generation' or 'discriminator'; run the train stage again")
            figure, all_axes = panels(len(names))
            for axes, name in zip(all_axes, names, strict=True):
                _train_and_held_out(axes, name, (steps_csv, steps), (history_csv, history))
        save_png(picture(figure), path)


def gradient_variance_figure(variances: Mapping[str, float], path: Path) -> None:
    """Bars of gradient variances on a logarithmic scale, each with its number (PNG).

    Args:
        variances: estimator's name -> total variance (trace of the gradient's covariance), in drawing order. One of
            exactly 0 (the trick's, under a decoder whose output is dead) has a number and no bar.
        path: the PNG to write.

    Raises:
        GenlibError: nothing above 0 to draw, or a variance that is negative or not finite.
    """
    wrong = {name: value for name, value in variances.items() if not 0 <= value < float("inf")}
    positive = [value for value in variances.values() if value > 0]
    if wrong or not positive:
        raise GenlibError(f"{path}: variances {wrong or 'all 0 or missing'}; give finite ones, one of them above 0")
    with look():
        figure, (axes,) = panels(1, width=6.4, height=0.9 + 0.7 * len(variances))
        values = list(variances.values())
        bars = axes.barh(list(variances), values, height=0.6, color=[_BLUE, *[_ORANGE] * (len(values) - 1)])
        axes.bar_label(bars, labels=[_readable(value) for value in values], padding=4, color=INK)
        axes.set_xscale("log")
        axes.set_xlim(min(positive) / 10, max(positive) * 10)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("total variance of the gradient (log scale)")
        save_png(picture(figure), path)


def _train_and_held_out(axes: Axes, name: str, steps: tuple[Path, _Columns], history: tuple[Path, _Columns]) -> None:
    x, y = _column(*steps, "images"), _column(*steps, name)
    held_x, held_y = _column(*history, "images"), _column(*history, f"val_{name}")
    axes.plot(x, y, color=_BLUE, linewidth=0.9, label="training")
    axes.plot(held_x, held_y, color=_ORANGE, linewidth=1.4, marker="o", markersize=5, label="held out")
    axes.set_title(_TITLES[name], loc="left")
    if name == "generation" and min(*y, *held_y) > 0:  # falls fast, then slowly: only a log scale shows both
        _readable_log(axes)
    _over_images(axes)
    axes.legend()


def _game(steps: tuple[Path, _Columns], history: tuple[Path, _Columns]) -> Figure:
    """The panels of a GAN, two to a row."""
    draw: list[Callable[[Axes], None]] = []
    draw += [lambda axes: _players(axes, *steps), lambda axes: _probabilities(axes, *steps)]
    if "accuracy_real" in steps[1]:
        draw.append(lambda axes: _accuracies(axes, *steps))
    if "val_fid" in history[1]:
        draw.append(lambda axes: _fids(axes, *history))
    rows = -(-len(draw) // 2)
    figure = Figure(figsize=(10.4, 3.8 * rows), layout="constrained")
    for index, panel in enumerate(draw, start=1):
        panel(figure.add_subplot(rows, 2, index))
    return figure


def _players(axes: Axes, source: Path, steps: _Columns) -> None:
    x = _column(source, steps, "images")
    for name, colour in (("discriminator", _BLUE), ("generator", _ORANGE)):
        axes.plot(x, _column(source, steps, name), color=colour, linewidth=0.9, label=name)
    axes.set_title("losses of the two players, nats per image", loc="left")
    axes.set_ylim(bottom=0)
    _over_images(axes)
    axes.legend()


def _probabilities(axes: Axes, source: Path, steps: _Columns) -> None:
    x = _column(source, steps, "images")
    for name, label, colour in (("d_real", "real: D(x)", _BLUE), ("d_fake", "generated: D(G(z))", _ORANGE)):
        axes.plot(x, _column(source, steps, name), color=colour, linewidth=0.9, label=label)
    axes.axhline(0.5, color=INK, linewidth=1, linestyle="--", label="0.5: cannot tell")
    axes.set_title("probability of being real, as D sees it", loc="left")
    axes.set_ylim(0, 1)
    _over_images(axes)
    axes.legend()


def _accuracies(axes: Axes, source: Path, steps: _Columns) -> None:
    x = _column(source, steps, "images")
    for name, label, colour in (("accuracy_real", "real", _BLUE), ("accuracy_fake", "generated", _ORANGE)):
        axes.plot(x, _column(source, steps, name), color=colour, linewidth=0.9, label=label)
    axes.axhline(0.5, color=INK, linewidth=1, linestyle="--", label="0.5: guesses")
    axes.set_title("share of images that D is right about", loc="left")
    axes.set_ylim(0, 1.02)
    _over_images(axes)
    axes.legend()


def _fids(axes: Axes, source: Path, history: _Columns) -> None:
    """FID after each epoch; the best epoch, and those at which the samples look like mode collapse, are marked."""
    x, y = _column(source, history, "images"), _column(source, history, "val_fid")
    best = y.index(min(y))
    axes.plot(x, y, color=_BLUE, linewidth=1.4, marker="o", markersize=5)
    axes.plot(x[best], y[best], "D", color=_ORANGE, markersize=8, label=f"best: epoch {best + 1}, {y[best]:.3g}")
    flags = _column(source, history, "val_collapse")
    alarms = [(images, fid) for images, fid, flag in zip(x, y, flags, strict=True) if flag]
    if alarms:
        axes.plot(*zip(*alarms, strict=True), "x", color=_RED, markersize=9, markeredgewidth=2, label="mode collapse?")
    axes.set_title("FID of each epoch's samples, held-out images", loc="left")
    if min(y) > 0:  # falls fast, then slowly
        _readable_log(axes)
    _over_images(axes)
    axes.legend()


def _over_images(axes: Axes) -> None:
    axes.set_xlabel("training images seen")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))


def _readable_log(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}"


def _readable(value: float) -> str:
    if not 1e-3 <= value < 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _read(path: Path) -> _Columns:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run the train stage, which writes it (dvc repro)") from error
    if not rows:
        raise GenlibError(f"{path}: no rows; delete the run and train it again (dvc repro)")
    try:
        return {name: [float(row[name]) for row in rows] for name in rows[0]}
    except (TypeError, ValueError) as error:
        raise GenlibError(f"{path}: a value is missing or not a number ({error}); train the run again") from error


def _column(path: Path, columns: _Columns, name: str) -> list[float]:
    if name not in columns:
        raise GenlibError(f"{path}: no column {name!r} (has {', '.join(columns)}); train the run again (dvc repro)")
    return columns[name]
