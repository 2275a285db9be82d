"""Numbers, sizes and times as a person reads them."""

import math
from collections.abc import Sequence, Set
from datetime import datetime
from typing import Any

from genlib.errors import GenlibError

_MOST_DECIMALS = 6


def number(value: float) -> str:
    """Whole numbers with thousands separators, others to four significant digits: 55,000, 12.35, 0.0213, 3.1e-05."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def aligned(lines: Sequence[Sequence[str]], words: Set[int]) -> list[str]:
    """Lines of cells as columns of equal width for a terminal: those numbered in `words` to the left, others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def percent(share: float) -> str:
    """A share (0 to 1) in per cent with one decimal, without the sign: 9.8."""
    return f"{100 * share:.1f}"


def measured(mean: float, std: float | None) -> str:
    """A mean with its standard deviation to two digits, and no more of the mean: 217.8 ± 2.5; the mean alone if None.

    Equal values have a deviation of 0: 10 ± 0. A line may break before the sign only.
    """
    if std is None:
        return number(mean)
    if not (math.isfinite(mean) and std > 0 and math.isfinite(std)):
        return f"{number(mean)} \u00b1\u00a0{number(std)}"
    decimals = max(0, 1 - math.floor(math.log10(std)))
    if decimals > _MOST_DECIMALS:
        return f"{number(mean)} \u00b1\u00a0{number(std)}"
    return f"{mean:,.{decimals}f} \u00b1\u00a0{std:,.{decimals}f}"


def signed(shown: str) -> str:
    """A number as text with its sign in front: +1.2."""
    return shown if shown.startswith("-") else f"+{shown}"


def value(item: Any) -> str:
    """Any setting or result: numbers as `number`, None as "off", lists joined by commas."""
    if item is None:
        return "off"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int | float):
        return number(item)
    if isinstance(item, list | tuple):
        return ", ".join(value(part) for part in item)
    return str(item)


def shape(sizes: Sequence[int]) -> str:
    """A shape without the batch, with multiplication signs between: 1 x 28 x 28; no dimensions are "one number"."""
    return " \u00d7 ".join(f"{size:,}" for size in sizes) or "one number"


def size(count: int) -> str:
    """Bytes in a unit that fits: 9.9 MB."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{count:,} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def date(stamp: str) -> str:
    """The day of an ISO date, 2025-03-09. Raises GenlibError if it is none."""
    try:
        return datetime.fromisoformat(stamp).date().isoformat()
    except ValueError as error:
        raise GenlibError(f"provenance.json: date: {stamp!r} is not an ISO date; train the run again") from error
