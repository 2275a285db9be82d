"""Stage features: the measuring network of a dataset, trained on its own labels."""

import time
from pathlib import Path
from typing import Annotated

import typer

from genlib import device, features, params
from genlib.data.arrays import open_card, open_split
from genlib.files import write_json
from stages.command import run


def main(
    dataset: Annotated[str, typer.Argument(help="A dataset with an entry under features in params.yaml.")],
    data: Annotated[Path, typer.Option(help="Folder of the processed dataset.")],
    model: Annotated[Path, typer.Option(help="Weights to write.")],
    metrics: Annotated[Path, typer.Option(help="JSON of held-out numbers to write.")],
) -> None:
    """Train the classifier whose features measure this dataset's models."""
    began = time.perf_counter()
    everything = params.load()
    settings = everything.feature(dataset)
    on = device.choose()
    card = open_card(data)
    print(f"{dataset}: classifier on {card['counts']['train']:,} images, {settings.epochs} epochs, {on}", flush=True)
    classifier = features.train(open_split(data, "train"), len(card["classes"]), settings, everything.seed, on)
    features.save(model, classifier, dataset, card["classes"])
    score = features.accuracy(features.load(model, on), open_split(data, "val"))
    write_json(metrics, {"val_accuracy": round(score, 5)})
    print(f"{dataset}: validation accuracy {score:.2%} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    run(main)
