"""Command trials, no stage of dvc.yaml: the settings tried for a run, judged on validation images."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from genlib import trials
from genlib.presentation.text import aligned, number
from stages.command import run


def main(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml.")],
    rev: Annotated[str, typer.Option(help="Commit whose experiments to read.")] = "HEAD",
    by: Annotated[str | None, typer.Option(help="Number to judge by; without it FID, or the held-out loss.")] = None,
    csv: Annotated[Path | None, typer.Option(help="File to write as well; docs/trials/<run>.csv is committed.")] = None,
) -> None:
    """List the trainings of a run in DVC's experiments, the best on validation images first.

    Trained by, for example: dvc exp run --queue -S gan.lr=1e-4,2e-4 train@mnist-gan
    """
    found, notes = trials.of_run(name, rev)
    for note in notes:
        print(note, file=sys.stderr)
    rows = trials.table(found, by)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    print("\n".join(aligned([columns, *cells], {0})))
    if csv is not None:
        trials.write_csv(csv, rows)
        print(f"{len(rows)} rows in {csv}")


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    run(main)
