"""Command report, no stage of dvc.yaml: fills the tables of a Markdown file from the results of the runs."""

import re
from pathlib import Path
from typing import Annotated

import typer

from genlib import params
from genlib.errors import GenlibError
from genlib.files import write_bytes
from genlib.presentation import report
from stages.command import run


def main(
    file: Annotated[Path, typer.Argument(help="Markdown with blocks to fill.")] = Path("docs/results.md"),
) -> None:
    """Fill the tables of docs/results.md from runs/, metrics/ and docs/trials/; its words stay as they are."""
    text = _read(file)
    if not re.search(r"^<!-- \w+: ", text, re.MULTILINE):
        raise GenlibError(
            f"{file}: no block to fill; write <!-- numbers: RUN --> and <!-- end -->, each on a line of its own"
        )
    write_bytes(file, report.fill(text, params.load().runs, Path()).encode())
    print(f"{file}: tables filled")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise GenlibError(f"{file}: no such file; name a Markdown file with blocks to fill") from error
    except UnicodeDecodeError as error:
        raise GenlibError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from error


if __name__ == "__main__":
    run(main)
