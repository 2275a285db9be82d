"""Stage features: the measuring network of a dataset, trained on its own labels."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from genlib import device, features, params
from genlib.claims import claimed_output
from genlib.data.arrays import open_card, open_split
from genlib.errors import GenlibError
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
    used = params.steady(lambda everything: (everything.feature(dataset), everything.threads))
    with used as (settings, threads):
        graph, on, card = device.allows_graphs(os.environ), device.choose(threads), open_card(data)
        kind, names = card["labels"], card["classes"]
        _check_labels(dataset, kind, names)
        images = f"{card['counts']['train']:,} images"
        print(f"{dataset}: classifier on {images}, {settings.epochs} epochs, {on}", flush=True)
        train, val = open_split(data, "train"), open_split(data, "val")
        with claimed_output(model):
            classifier = features.train(train, kind, len(names), settings, settings.seed, on, graph)
            features.save(model, classifier, dataset, kind, names, settings.net)
            network = features.load(model, on)
            score = features.score(network, network.measure(val.images)[1], val.labels, train.labels)
            write_json(metrics, _numbers(score))
    beside = "" if score.baseline is None else f" (majority {score.baseline:.2%})"
    print(f"{dataset}: validation accuracy {score.accuracy:.2%}{beside} after {time.perf_counter() - began:.0f} s")


def _check_labels(dataset: str, kind: str, names: Sequence[str]) -> None:
    """GenlibError where a dataset's labels are none that a measuring network can tell."""
    if kind == "people":
        raise GenlibError(
            f"params.yaml: features.{dataset}: {dataset}'s labels are people, and a measuring network needs classes or "
            f"attributes, which the kinds of source mnist, digits, celeba and faces have; remove the entry and let "
            f"runs.<run>.features name one of them"
        )
    if len(names) < 2:
        raise GenlibError(
            f"params.yaml: features.{dataset}: the images of {dataset} are all of one class ({', '.join(names)}), and "
            "a measuring network tells two or more; remove the entry and let runs.<run>.features name another dataset's"
        )


def _numbers(score: features.Score) -> dict[str, Any]:
    numbers: dict[str, Any] = {"val_accuracy": round(score.accuracy, 5)}
    if score.baseline is not None:
        numbers["val_baseline"] = round(score.baseline, 5)
        numbers["attributes"] = {
            name: {"accuracy": round(accuracy, 5), "baseline": round(baseline, 5)}
            for name, (accuracy, baseline) in score.attributes.items()
        }
    return numbers


if __name__ == "__main__":
    run(main)
