"""Animated GIFs: what a model draws while it learns. Needs neither torch nor matplotlib."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from genlib.errors import GenlibError
from genlib.figures.grids import Pixels, captioned, grid, refuse_blank
from genlib.files import write_bytes

HOLD_SECONDS = 2.0
LARGE_IMAGES = 16
"""Of images of 64 x 64 and more in an animation, so that 30 frames stay under about 2.5 MB."""


def progress_gif(
    frames: Pixels,
    images_seen: Sequence[int],
    path: Path,
    columns: int,
    scale: int = 2,
    seconds_per_frame: float = 0.25,
) -> None:
    """Animate grids of samples over training, each captioned with the training images seen so far.

    Args:
        frames: uint8 `F N C H W`, the same latents decoded at F moments.
        images_seen: F counts of training images, one per frame.
        path: the GIF to write.
        columns: images per row of each grid.
        scale: as in `grids.grid`.
        seconds_per_frame: how long each frame stays.

    Raises:
        GenlibError: no frames, counts that do not match, or images that `grid` refuses.
    """
    save_gif([grid(images, columns, scale) for images in frames], path, seconds_per_frame, seen_captions(images_seen))


def seen_captions(images_seen: Sequence[int]) -> list[str]:
    """ "12,800 images seen", one caption per count."""
    return [f"{count:,} images seen" for count in images_seen]


def save_gif(frames: Sequence[Image.Image], path: Path, seconds_per_frame: float, captions: Sequence[str]) -> None:
    """Write frames with a caption under each as a GIF that loops for ever and rests on its last frame.

    Grey frames (mode "L") keep their exact values; colour frames get the 256 colours that suit them best.

    Args:
        frames: pictures of one size and mode, "L" or "RGB".
        path: the GIF to write, whole or not at all.
        seconds_per_frame: how long each frame stays, in steps of 0.01 s (the format's own unit), at least 0.02.
        captions: one line of text per frame.

    Raises:
        GenlibError: no frames, captions that do not match, a time too short, or a blank last frame.
    """
    if not frames or len(frames) != len(captions):
        raise GenlibError(f"{path}: {len(frames)} frames and {len(captions)} captions; give one caption per frame")
    if seconds_per_frame < 0.02:
        raise GenlibError(f"{path}: {seconds_per_frame} s per frame; browsers slow such GIFs down, give at least 0.02")
    refuse_blank(frames[-1], path)
    pictures = [_indexed(captioned(frame, caption)) for frame, caption in zip(frames, captions, strict=True)]
    durations = [_milliseconds(seconds_per_frame)] * (len(pictures) - 1)
    durations.append(_milliseconds(max(HOLD_SECONDS, seconds_per_frame)))
    buffer = BytesIO()
    pictures[0].save(
        buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False
    )
    write_bytes(path, buffer.getvalue())


def _indexed(picture: Image.Image) -> Image.Image:
    if picture.mode == "L":
        return picture
    return picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 100) * 10
