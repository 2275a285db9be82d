"""Command report, no stage of dvc.yaml: fills the tables of a Markdown file from the results of the runs."""

from pathlib import Path
from typing import Annotated

import typer

from genlib import params
from genlib.files import write_bytes
from genlib.presentation import report
from stages.command import run


def main(
    file: Annotated[Path, typer.Argument(help="Markdown with blocks to fill.")] = Path("docs/results.md"),
) -> None:
    """Fill the tables of docs/results.md from runs/, metrics/ and docs/trials/; its words stay as they are."""
    text = report.fill(file.read_text(encoding="utf-8"), params.load().runs, Path())
    write_bytes(file, text.encode())
    print(f"{file}: tables filled")


if __name__ == "__main__":
    run(main)
