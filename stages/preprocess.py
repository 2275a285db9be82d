"""Stage preprocess: archives to uint8 arrays and a card."""

from pathlib import Path
from typing import Annotated

import typer

from genlib import params
from genlib.claims import claimed_output
from genlib.data.processed import preprocess
from stages.command import run


def main(
    dataset: Annotated[str, typer.Argument(help="A dataset of params.yaml, such as mnist.")],
    raw: Annotated[Path, typer.Option(help="Folder of the archives.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Read a dataset's archives, split and resize them, and write arrays with a card."""
    with params.steady(lambda everything: everything.dataset(dataset)) as settings, claimed_output(out):
        card = preprocess(dataset, settings, raw, out)
    counts = ", ".join(f"{count:,} {split}" for split, count in card["counts"].items())
    print(f"{dataset}: {counts} images of {card['channels']} x {card['image_size']} x {card['image_size']} in {out}")


if __name__ == "__main__":
    run(main)
