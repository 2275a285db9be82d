"""Stage download: a dataset's archives, or the list of a user's own images, and where they came from."""

from pathlib import Path
from typing import Annotated

import typer

from genlib import params
from genlib.data.sources import provide_dataset
from stages.command import run


def main(
    dataset: Annotated[str, typer.Argument(help="A dataset of params.yaml, such as mnist.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    settings: Annotated[Path, typer.Option("--params", help="The file of settings.")] = Path("params.yaml"),
) -> None:
    """Bring a dataset's archives, verified, from the mirror in GENLIB_MIRROR or the official source; or draw them.

    Of a folder of the user's own images, list them.
    """
    with params.steady(lambda everything: everything.dataset(dataset).source, settings) as source:
        # Not an output of the stage: DVC deletes those before it runs, and a broken transfer is to go on.
        provide_dataset(source, dataset, out, Path(".work") / "download" / dataset)


if __name__ == "__main__":
    run(main)
