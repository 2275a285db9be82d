"""How a transfer shows itself: a bar with its rate on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

LINE_SECONDS = 10.0


def say(line: str) -> None:
    """One line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def size(count: int) -> str:
    """Bytes for a person: 9912422 is 9.91MB."""
    return tqdm.format_sizeof(count, "B")


@contextmanager
def meter(label: str, offset: int, total: int | None) -> Iterator[Callable[[int], object]]:
    """Yield a function that is told the bytes of each step; `offset` of `total` bytes are there already."""
    if sys.stderr.isatty():
        with tqdm(desc=label, initial=offset, total=total, unit="B", unit_scale=True) as bar:
            yield bar.update
        return
    lines = _Lines(label, offset, total)
    yield lines.update
    say(lines.text())


class _Lines:
    def __init__(self, label: str, offset: int, total: int | None) -> None:
        self._label, self._offset, self._total = label, offset, total
        self._done = offset
        self._start = self._shown = time.monotonic()

    def update(self, step: int) -> None:
        self._done += step
        if time.monotonic() - self._shown >= LINE_SECONDS:
            self._shown = time.monotonic()
            say(self.text())

    def text(self) -> str:
        rate = (self._done - self._offset) / max(time.monotonic() - self._start, 1e-3)
        of_total = f" of {size(self._total)}" if self._total else ""
        return f"{self._label}: {size(self._done)}{of_total}, {size(int(rate))}/s"
