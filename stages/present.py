"""Stage present: what a lane shows: slides, all results, slides for PowerPoint."""

from pathlib import Path
from typing import Annotated

import typer

from genlib import params
from genlib.claims import claimed_output
from genlib.files import staged_folder
from genlib.presentation import site
from genlib.presentation.results import Folders
from stages.command import run


def main(
    lane: Annotated[str, typer.Argument(help="A lane of params.yaml, such as demo.")],
    runs: Annotated[Path, typer.Option(help="Folder of the lane's runs.")],
    metrics: Annotated[Path, typer.Option(help="Folder of the lane's metrics.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    comparisons: Annotated[Path | None, typer.Option(help="Folder of the lane's comparisons; may be missing.")] = None,
) -> None:
    """Write a lane's slides (index.html, presentation.pptx) and the page of all its results (results.html)."""
    used = params.steady(lambda everything: (everything.lane(lane), everything.lanes[lane].title))
    with used as (members, title), claimed_output(out), staged_folder(out) as folder:
        count = site.write(folder, lane, title, members, Folders(runs, metrics, comparisons))
    print(f"{lane}: {len(members)} runs on {count} slides in {out / site.DECK}; open it in a browser")


if __name__ == "__main__":
    run(main)
