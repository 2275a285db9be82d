"""A trained model as MLflow loads it: `mlflow.pyfunc.load_model("models:/digits-gan/latest")`.

`genlib.tracking` names this module in the model it logs, beside the weights and a copy of this package's code, so that
it can be loaded where there is no checkout. It needs no MLflow itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from genlib.data.arrays import Images
from genlib.errors import GenlibError
from genlib.library import TrainedModel, load

MOST_IMAGES = 10_000
"""The most images that one call draws."""


class Columns(Protocol):
    """Named columns: a pandas DataFrame, or a mapping of names to numbers or lists of them."""

    def __getitem__(self, name: str, /) -> Any: ...

    def __contains__(self, name: object, /) -> bool: ...


class Drawing:
    """What `mlflow.pyfunc.load_model` gives: `predict` draws images."""

    def __init__(self, model: TrainedModel) -> None:
        self.model = model

    def predict(self, model_input: Columns, params: Mapping[str, Any] | None = None) -> Images:
        """Images uint8 N C H W, as `TrainedModel.sample` draws them.

        Args:
            model_input: a row for each drawing: `count`, the number of images, and `seed`, 0 if it is missing. The
                images of all rows follow each other.
            params: MLflow passes it to every model; there is none.

        Raises:
            GenlibError: no count, or a number out of range.
        """
        counts = np.atleast_1d(np.asarray(model_input["count"]))
        seeds = np.atleast_1d(np.asarray(model_input["seed"])) if "seed" in model_input else np.zeros_like(counts)
        if counts.min() < 1 or counts.sum() > MOST_IMAGES or seeds.min() < 0:
            raise GenlibError(
                f"count {counts.tolist()}, seed {seeds.tolist()}: draw 1 to {MOST_IMAGES:,} images in all, with seeds "
                "of 0 or more"
            )
        drawn = [self.model.sample(int(count), int(seed)) for count, seed in zip(counts, seeds, strict=True)]
        return np.concatenate(drawn)


def _load_pyfunc(path: str) -> Drawing:
    """What MLflow calls with the path of the weights."""
    return Drawing(load(Path(path)))
