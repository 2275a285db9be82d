"""Command compare, no stage of dvc.yaml: results side by side, and whether a difference exceeds the spread."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from genlib import comparison, params
from genlib.comparison import Row
from genlib.errors import GenlibError
from genlib.experiments import in_experiments, in_workspace
from genlib.presentation.text import aligned, number
from stages.command import run

_COLUMNS = 4
"""Runs side by side that fit into 100 characters."""


def main(
    runs: Annotated[list[str], typer.Argument(help="Runs of params.yaml; with --experiments one.")],
    experiments: Annotated[bool, typer.Option("--experiments", help="The run in DVC's experiments, too.")] = False,
    rev: Annotated[str, typer.Option(help="Commit whose experiments to read.")] = "HEAD",
    without: Annotated[list[str] | None, typer.Option(help="Experiment to leave out; repeatable.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only this metric; repeatable.")] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="File to write; comparisons/<lane>/<name>.csv is where committed ones live, shown by the page."
        ),
    ] = None,
) -> None:
    """Compare runs of the workspace, or one run over the seeds and settings of experiments.

    Refused if the results were measured differently. For repeated trainings: dvc exp run --queue -S seed=0,1,2
    """
    wanted = metric or []
    if experiments:
        if len(runs) != 1:
            raise GenlibError(f"--experiments: {len(runs)} runs are named; name one")
        others, notes = in_experiments(runs[0], rev, without or [])
        rows, more = comparison.over_seeds([in_workspace(runs[0]), *others], wanted)
        for note in [*notes, *more]:
            print(note, file=sys.stderr)
        print(_over_seeds(rows))
    else:
        if len(set(runs)) < max(2, len(runs)):
            raise GenlibError(f"{' '.join(runs)}: name two different runs or more, or one with --experiments")
        lanes = {name: params.load().run(name).lane for name in runs}
        results = [
            comparison.read(Path("runs") / lane / name / "evaluation.json", name) for name, lane in lanes.items()
        ]
        rows = comparison.side_by_side(results, wanted)
        print(_side_by_side(rows, runs))
    if csv is not None:
        comparison.write_csv(csv, rows)
        print(f"{len(rows)} rows in {csv}")


def _over_seeds(rows: Sequence[Row]) -> str:
    groups = list(dict.fromkeys(row.group for row in rows))
    names = {group: f"{index}" for index, group in enumerate(groups, 1)}
    legend = [f"{rows[0].run}, spread over seeds"]
    for group in groups:
        most = max((row for row in rows if row.group == group), key=lambda row: row.n)
        legend.append(f"  {names[group]}: {group} (seed{'s' if most.n > 1 else ''} {most.seeds})")
    lines = [("metric", "group", "n", "mean", "std", "difference", "p", "verdict")]
    last = ""
    for row in rows:
        numbers = (str(row.n), number(row.mean), _or_blank(row.std), _signed(row.difference), _or_blank(row.p))
        lines.append(("" if row.metric == last else row.metric, names[row.group], *numbers, row.verdict))
        last = row.metric
    tests = sum(row.p is not None for row in rows)
    said = f"p: Welch's t-test against group 1, of {tests} here; not corrected for their number"
    return "\n".join([*legend, "", *aligned(lines, {0, len(lines[0]) - 1}), *([said] if tests else [])])


def _side_by_side(rows: Sequence[Row], runs: Sequence[str]) -> str:
    found = {(row.metric, row.group): row for row in rows}
    metrics = list(dict.fromkeys(row.metric for row in rows))
    pair = len(runs) == 2
    lines: list[str] = []
    for start in range(0, len(runs), _COLUMNS):
        shown = runs[start : start + _COLUMNS]
        table = [("metric", *shown, *(["difference"] if pair else []))]
        for metric in metrics:
            cells = [_cell(found.get((metric, name))) for name in shown]
            last = found.get((metric, runs[-1]))
            table.append((metric, *cells, *([_signed(last.difference) if last else ""] if pair else [])))
        lines += [*aligned(table, {0}), ""]
    return "\n".join([*lines, "\u00b1: standard deviation over sample sets of one model, not over trainings"])


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return number(row.mean) if row.std is None else f"{number(row.mean)} \u00b1 {number(row.std)}"


def _or_blank(value: float | None) -> str:
    return "" if value is None else number(value)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{'+' if value > 0 else ''}{number(value)}"


if __name__ == "__main__":
    run(main)
