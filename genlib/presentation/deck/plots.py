"""Geometry of the deck's plots: from numbers to coordinates, so that templates only draw."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genlib.presentation import text
from genlib.presentation.deck.blocks import Bars, Chart, Part, Series, Yardstick

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 44
_MOST_POINTS = 300
_LOG_STEPS = (1.0, 2.0, 3.0, 5.0, 7.0)

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in pixels, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A series in pixels; `points` as SVG wants them, `values` as they are."""

    name: str
    points: Sequence[tuple[float, float]]
    values: Sequence[tuple[float, float]]
    dots: bool

    @property
    def path(self) -> str:
        """The points of an SVG polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Plot:
    """A chart, ready to draw. `level` is None or a height in pixels and what the line says."""

    alt: str
    lines: Sequence[Line]
    across: Sequence[Tick]
    up: Sequence[Tick]
    level: Tick | None
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Bar:
    """A bar: its length as a share of the longest, its number in words."""

    name: str
    share: float
    said: str


@dataclass(frozen=True)
class Mark:
    """A place on the yardstick as a share of its length."""

    name: str
    share: float
    said: str


def plot(chart: Chart) -> Plot:
    """Where everything of a chart goes."""
    series = [thinned(one) for one in chart.series]
    xs = [x for one in series for x in one.x]
    ys = [y for one in series for y in one.y]
    low, high = chart.limits or _widened(min(ys), max(ys), chart.log)
    if high <= low:
        high = low + 1
    across = _linear(0, max(*xs, 1), _LEFT, WIDTH - _RIGHT)
    up = (_logarithmic if chart.log else _linear)(low, high, HEIGHT - _BOTTOM, _TOP)
    lines = [
        Line(
            one.name,
            [(across(x), up(y)) for x, y in zip(one.x, one.y, strict=True)],
            list(zip(one.x, one.y, strict=True)),
            one.dots,
        )
        for one in series
    ]
    ticks = log_ticks(low, high) if chart.log else nice_ticks(low, high)
    return Plot(
        alt=describe(chart),
        lines=lines,
        across=[Tick(across(x), _short(x)) for x in nice_ticks(0, max(*xs, 1), 4)],
        up=[Tick(up(y), text.number(y)) for y in ticks],
        level=Tick(up(chart.level[0]), f"{chart.level[0]}: {chart.level[1]}") if chart.level else None,
    )


def describe(chart: Chart) -> str:
    """A chart in words, for who cannot see it."""
    said = [
        f"{one.name}: from {text.number(one.y[0])} to {text.number(one.y[-1])}, "
        f"between {text.number(min(one.y))} and {text.number(max(one.y))}"
        for one in chart.series
    ]
    return f"Curves over the training images seen. {chart.title}. {'; '.join(said)}."


def thinned(series: Series) -> Series:
    """Every n-th point, the last one always, so that no more than about 300 are drawn."""
    step = -(-len(series.x) // _MOST_POINTS)
    kept = [*range(0, len(series.x) - 1, step), len(series.x) - 1]
    return Series(series.name, [series.x[index] for index in kept], [series.y[index] for index in kept], series.dots)


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in low..high, roughly `about` of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda one: abs(one - rough))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in low..high for a logarithmic scale: powers of ten, and others between where those are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = _LOG_STEPS if math.log10(high / low) < 2 else (1.0,)
    return [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]


def bars(block: Bars) -> list[Bar]:
    """Lengths of bars; on a logarithmic scale they begin a decade below the smallest."""
    values = block.values
    if not values:
        return []
    most, least = max(values.values()), min(values.values())
    if block.log:
        start = math.log10(least) - 1
        return [
            Bar(name, (math.log10(value) - start) / (math.log10(most) - start), text.number(value))
            for name, value in values.items()
        ]
    return [Bar(name, value / most if most else 0.0, text.number(value)) for name, value in values.items()]


def marks(block: Yardstick) -> list[Mark]:
    """Real images, each run, the pixel Gaussian, on a scale from a little below to a little above them."""
    values = [value for value, _ in block.marks.values()] + [block.floor, block.ceiling]
    least, most = min(values), max(values)
    if block.log:
        share = _logarithmic(least / 1.5, most * 1.5, 0, 1)
    else:
        room = 0.05 * (most - least) or 0.5
        share = _linear(least - room, most + room, 0, 1)
    runs = [Mark(name, share(value), said) for name, (value, said) in block.marks.items()]
    floor, ceiling = (
        Mark(name, share(at), text.number(at))
        for name, at in (("real images", block.floor), ("pixel Gaussian", block.ceiling))
    )
    return [floor, *runs, ceiling]


def cuboid(part: Part) -> tuple[float, float, float]:
    """Width, height and depth of a block that stands for a shape: channels, and pixels a side, on log scales."""
    sizes = part.output or (1,)
    if len(sizes) == 3:
        return 8 + 6 * math.log2(sizes[0]), 10 + 13 * math.log2(sizes[1]), 8 + 4 * math.log2(sizes[2])
    return 9.0, 16 + 8 * math.log2(max(sizes[0], 1)), 8.0


def _widened(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        return low / 1.1, high * 1.1
    room = 0.05 * (high - low) or 0.5
    return (0.0 if 0 <= low < 0.6 * high else low - room), high + room


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + math.log(value / low) / math.log(high / low) * (end - start)


def _short(count: float) -> str:
    """A count on an axis: 0, 500, 50k, 2.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"
