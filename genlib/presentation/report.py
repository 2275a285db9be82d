"""Tables of results in a Markdown file: each block names what it shows, and is filled from the files of the runs.

A block begins with a line `<!-- KIND: NAME ... -->` and ends with `<!-- end -->`; what is between is replaced. Kinds:
`numbers` (runs on one dataset side by side, with floor and ceiling), `trainings` (what each run took), `seeds` (numbers
of runs over several trainings each, from bands.json), `trials` (the settings tried for one run, from the table
docs/trials/<name>.csv).
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from genlib import bands
from genlib.errors import GenlibError
from genlib.presentation import catalogue, tables, text
from genlib.presentation.results import Measured, RunResults, read_run
from genlib.settings import RunSettings

_BLOCK = re.compile(r"^<!-- (?P<kind>\w+): (?P<names>[^>]*?) -->\n(?P<old>.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)
_OPENS = re.compile(r"^<!-- \w+: ", re.MULTILINE)
_OVER_SEEDS = ("fid", "kid", "precision", "recall", "coverage", "recon_mse")
_NO_NUMBERS = frozenset({"kid_standard_error", "nll_standard_error", "nll_elbo", "collapse"})


def fill(markdown: str, runs: Mapping[str, RunSettings], root: Path) -> str:
    """The same Markdown with its blocks filled.

    Args:
        markdown: the text.
        runs: those of params.yaml.
        root: the project's folder, with runs/, metrics/, bands.json and docs/trials/.

    Raises:
        GenlibError: a block does not end or is of no known kind, a run is unknown, or a file of one is missing.
    """
    if len(_OPENS.findall(markdown)) != len(_BLOCK.findall(markdown)):
        raise GenlibError("a block has no end: write <!-- end --> on a line of its own after each")

    def filled(block: re.Match[str]) -> str:
        kind, names = block["kind"], block["names"].split()
        lines = "\n".join(_table(_rows(kind, names, runs, root)))
        return f"<!-- {kind}: {block['names']} -->\n\n{lines}\n\n<!-- end -->"

    return _BLOCK.sub(filled, markdown)


def _rows(kind: str, names: Sequence[str], runs: Mapping[str, RunSettings], root: Path) -> Iterator[Sequence[str]]:
    if kind not in ("numbers", "trainings", "seeds", "trials"):
        raise GenlibError(
            f"<!-- {kind}: ... -->: no such kind of block; there are numbers, trainings, seeds and trials"
        )
    if kind == "trials":
        path = root / "docs/trials" / f"{names[0]}.csv"
        if not path.is_file():
            raise GenlibError(f"{path}: no such file; python -m stages.trials RUN --csv {path} writes it")
        return _trials(path)
    for name in names:
        if name not in runs:
            raise GenlibError(f"<!-- {kind}: {name} -->: no such run in params.yaml; name one of {', '.join(runs)}")
    lanes = {name: runs[name].lane for name in names}
    if kind == "seeds":
        return _seeds(lanes, bands.load(root / bands.PATH))
    results = {
        name: read_run(name, root / "runs" / lane / name, root / "metrics" / lane / f"{name}.json")
        for name, lane in lanes.items()
    }
    return _numbers(results) if kind == "numbers" else _trainings(results)


def _numbers(results: Mapping[str, RunResults]) -> Iterator[Sequence[str]]:
    """A row for each number that any of the runs has; those of samples with what real images and a bad model get."""
    found = {name: _of_run(result) for name, result in results.items()}
    yield ["", *results, "real images", "pixel Gaussian"]
    for key, metric in catalogue.METRICS.items():
        shown = [numbers[key] for numbers in found.values() if key in numbers]
        if not shown or key in _NO_NUMBERS:
            continue
        better = f" ({metric.better} is better)" if metric.better else ""
        unit = " %" if metric.shown == "per cent" else f" {metric.unit}" if metric.unit else ""
        limits = [next((limit for limit in of if limit is not None), None) for of in _limits(shown)]
        yield [
            f"{metric.label}{better}",
            *(f"{tables.said(key, n[key])}{unit}" if key in n else "" for n in found.values()),
            *("" if limit is None else f"{tables.said(key, Measured(mean=limit))}{unit}" for limit in limits),
        ]


def _of_run(result: RunResults) -> dict[str, Measured]:
    evaluation = result.evaluation
    encoding = {key: Measured(mean=value) for key, value in evaluation.encoding.items()}
    return {**evaluation.samples, **encoding}


def _limits(numbers: Sequence[Measured]) -> tuple[list[float | None], list[float | None]]:
    return [number.floor for number in numbers], [number.ceiling for number in numbers]


def _trainings(results: Mapping[str, RunResults]) -> Iterator[Sequence[str]]:
    yield ["", "epochs", "training images seen", "drawn from", "seed", "hardware", "training"]
    for name, result in results.items():
        made, best = result.provenance, result.evaluation.best
        threads = "" if made.device != "cpu" else f", {made.threads} thread{'s' if made.threads > 1 else ''}"
        yield [
            name,
            text.value(result.history["epoch"]),
            text.value(result.history["images"]),
            "last epoch" if best is None or best.is_last else f"last epoch (best: {best.epoch})",
            text.value(result.settings["seed"]),
            f"{made.hardware}{threads}",
            text.duration(made.seconds),
        ]


def _seeds(lanes: Mapping[str, str], known: bands.Bands) -> Iterator[Sequence[str]]:
    """Means over trainings, with their standard deviations."""
    metrics = {key: catalogue.METRICS[key] for key in _OVER_SEEDS}
    yield ["", "trainings", *(f"{metric.label} ({metric.better} is better)" for metric in metrics.values())]
    for name, lane in lanes.items():
        measured = known.of(f"{lane}/{name}").measured
        if measured is None:
            raise GenlibError(
                f"<!-- seeds: {name} -->: {bands.PATH} has no bands of it; "
                "python -m stages.verify --measure writes them"
            )
        cells = []
        for key in metrics:
            band = measured.bands.get(key)
            mean, std = (0.0, 0.0) if band is None else bands.values_behind(band)
            cells.append("" if band is None else tables.said(key, Measured(mean=mean, std=std)))
        yield [name, str(len(measured.results)), *cells]


def _trials(path: Path) -> Iterator[Sequence[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.reader(file):
            yield [_shortened(cell) for cell in line]


def _shortened(cell: str) -> str:
    """A cell of a CSV file, numbers as the rest of the report shows them."""
    return text.number(float(cell)) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", cell) else cell


def _table(rows: Iterator[Sequence[str]]) -> list[str]:
    head, *body = rows
    return [_line(head), _line(["---"] * len(head)), *(_line(row) for row in body)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
