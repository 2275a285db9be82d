"""Four points of training side by side: what the same codes, or the same images, became. Needs no torch."""

import math
from collections.abc import Sequence

from PIL import Image

from genlib.errors import GenlibError
from genlib.figures.animation import seen_captions
from genlib.figures.grids import Pixels, beside, captioned, fitting_scale, grid

_SHARES = (1 / 27, 1 / 9, 1 / 3, 1.0)
_SIDE = 4


def training_points(frames: Pixels, images_seen: Sequence[int]) -> Image.Image:
    """Grids of up to 4 x 4 images at four points of training, each captioned with the training images seen.

    Args:
        frames: uint8 `F N C H W`, the same N images at F moments.
        images_seen: F counts of training images, increasing.

    Raises:
        GenlibError: no frames, counts that do not match, or images that `grid` refuses.
    """
    if len(frames) != len(images_seen) or not images_seen:
        raise GenlibError(f"training points: {len(frames)} frames, {len(images_seen)} counts; give one for each frame")
    side = min(_SIDE, max(1, math.isqrt(frames.shape[1])))
    chosen = four_points(images_seen)
    scale = fitting_scale(frames.shape[-1], side * len(chosen))
    captions = seen_captions([images_seen[index] for index in chosen])
    return beside(
        [
            captioned(grid(frames[index, : side * side], side, scale), caption)
            for index, caption in zip(chosen, captions, strict=True)
        ]
    )


def four_points(images_seen: Sequence[int]) -> list[int]:
    """Indices of the frames nearest to 1/27, 1/9, 1/3 and the end of training, nearest on a logarithmic scale.

    They are distinct and increasing. The untrained frame (0 images seen) is taken only where there are not four
    others; fewer than four frames are all taken.
    """
    trained = [index for index, count in enumerate(images_seen) if count > 0]
    usable = trained if len(trained) >= len(_SHARES) else list(range(len(images_seen)))
    shares = _SHARES[-len(usable) :]
    chosen: list[int] = []
    end = len(usable)
    for place in reversed(range(len(shares))):
        # Each leaves enough earlier frames for those still to be chosen.
        end = min(range(place, end), key=lambda at: _distance(images_seen[usable[at]], shares[place] * images_seen[-1]))
        chosen.insert(0, usable[end])
    return chosen


def _distance(count: float, target: float) -> float:
    return abs(math.log(max(count, 1)) - math.log(max(target, 1)))
