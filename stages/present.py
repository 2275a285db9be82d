"""Stage present: the results of a lane as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from genlib import params
from genlib.claims import claimed_output
from genlib.files import staged_folder
from genlib.presentation.page import Folders, build
from stages.command import run


def main(
    lane: Annotated[str, typer.Argument(help="A lane of params.yaml, such as demo.")],
    runs: Annotated[Path, typer.Option(help="Folder of the lane's runs.")],
    metrics: Annotated[Path, typer.Option(help="Folder of the lane's metrics.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    comparisons: Annotated[Path | None, typer.Option(help="Folder of the lane's comparisons; may be missing.")] = None,
) -> None:
    """Write a lane's page: data, architectures, results and where they come from, in one file."""
    settings = params.load()
    members = settings.lane(lane)
    with claimed_output(out), staged_folder(out) as folder:
        page = build(lane, settings.lanes[lane].title, members, Folders(runs, metrics, comparisons))
        (folder / "index.html").write_text(page, encoding="utf-8")
    print(f"{lane}: {len(members)} runs in {out / 'index.html'}; open it in a browser")


if __name__ == "__main__":
    run(main)
