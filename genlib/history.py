"""What a training leaves beside its model: settings, architecture, history, pictures of the progress."""

import csv
import io
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors

from genlib.files import staged_folder, write_json
from genlib.nets.describe import describe
from genlib.training import Row, Training


def write(folder: Path, training: Training, shape: tuple[int, int, int]) -> None:
    """Write the folder whole: settings.json, architecture.json, history.csv (a row an epoch), steps.csv,
    progress.safetensors (`images_seen` F, `samples` uint8 F N C H W, `codes` F M 2 if recorded).
    """
    inputs = dict.fromkeys(training.networks, shape) | {training.objective.DRAWS: (training.settings.latent_dim,)}
    with staged_folder(folder) as new:
        write_json(new / "settings.json", {"seed": training.seed, **training.settings.model_dump()})
        write_json(new / "architecture.json", {"networks": describe(training.networks, inputs)})
        (new / "history.csv").write_text(_csv(training.history), newline="")
        (new / "steps.csv").write_text(_csv(training.steps), newline="")
        # Images of networks that keep channels last are in that order too, which safetensors does not store.
        frames = {name: torch.stack(frames).contiguous() for name, frames in training.frames.items()}
        (new / "progress.safetensors").write_bytes(save_tensors(frames))


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: value if isinstance(value, int) else f"{value:.7g}" for key, value in row.items()})
    return text.getvalue()
