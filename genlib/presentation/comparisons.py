"""Committed comparisons for the page: comparisons/<lane>/<name>.csv, written by `python -m stages.compare --csv`."""

from dataclasses import dataclass
from pathlib import Path

from genlib.comparison import Row, read_csv
from genlib.errors import GenlibError


@dataclass(frozen=True)
class Comparison:
    """One file. `title`: its name in words; `groups`: in the file's order, the first is what others differ from."""

    name: str
    title: str
    rows: tuple[Row, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in the order of the rows."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order of the rows."""
        return tuple(dict.fromkeys(row.metric for row in self.rows))

    @property
    def over_seeds(self) -> bool:
        """Spreads are over repeated trainings; False: over sample sets of one model each."""
        return self.rows[0].spread == "seeds"

    @property
    def tested(self) -> bool:
        """Some group was tested against the first."""
        return any(row.p is not None for row in self.rows)

    def row(self, metric: str, group: str) -> Row | None:
        """The row of a metric and a group; None if it was not measured."""
        return next((row for row in self.rows if (row.metric, row.group) == (metric, group)), None)


def read_comparisons(folder: Path) -> tuple[Comparison, ...]:
    """Every comparison of a lane, by file name; none if there is no such folder. GenlibError if a file is broken."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        rows = read_csv(path)
        keys = [(row.metric, row.group) for row in rows]
        for key in keys:
            if keys.count(key) > 1:
                raise GenlibError(f"{path}: metric {key[0]}, group {key[1]}: two rows; write it again")
        if len({row.spread for row in rows}) > 1:
            raise GenlibError(f"{path}: spread: both over seeds and over sample sets; write it again")
        title = path.stem.replace("-", " ").replace("_", " ")
        found.append(Comparison(path.stem, title[:1].upper() + title[1:], rows))
    return tuple(found)
