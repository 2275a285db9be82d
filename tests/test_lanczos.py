"""Our Lanczos filter against Pillow's: equal to the last bit, whatever the sizes."""

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from genlib.data.readers.lanczos import Lanczos

Pixels = NDArray[np.uint8]


def by_pillow(picture: Pixels, size: int) -> Pixels:
    """C side side to C size size; every channel by itself."""
    resize = partial(Image.Image.resize, size=(size, size), resample=Image.Resampling.LANCZOS)
    return np.stack([np.asarray(resize(Image.fromarray(channel))) for channel in picture])


def drawn(kind: str, shape: tuple[int, int, int]) -> Pixels:
    """Noise, of all levels or of the two that a filter overshoots most, or a ramp."""
    random = np.random.default_rng(shape)
    match kind:
        case "noise":
            return random.integers(0, 256, shape, np.uint8)
        case "black and white":
            return (random.integers(0, 2, shape) * 255).astype(np.uint8)
    ramp: Pixels = np.indices(shape).sum(0).astype(np.uint8)
    return ramp


@pytest.mark.parametrize("kind", ["noise", "black and white", "ramp"])
@pytest.mark.parametrize(
    ("side", "size"),
    [
        *((side, 64) for side in (65, 89, 109, 128, 150, 178, 218, 250, 333, 1024)),
        *((178, size) for size in (1, 7, 32, 96, 128, 177, 178, 179, 256)),
    ],
)
def test_pixels_are_those_of_pillow(kind: str, side: int, size: int) -> None:
    resize = Lanczos(3, side, size)
    for channels in (slice(None), slice(None, None, -1)):  # the second picture meets what is left of the first
        picture = drawn(kind, (3, side, side))[channels]
        np.testing.assert_array_equal(resize(picture), by_pillow(picture, size), strict=True)


def test_all_sides_up_to_forty() -> None:
    for side in range(1, 41):
        for size in range(1, 41):
            picture = drawn("noise", (1, side, side))
            assert (Lanczos(1, side, size)(picture) == by_pillow(picture, size)).all(), (side, size)


def test_a_picture_is_not_overwritten_by_the_next() -> None:
    resize = Lanczos(1, 20, 10)
    first = resize(drawn("noise", (1, 20, 20)))
    kept = first.copy()
    resize(drawn("ramp", (1, 20, 20)))
    np.testing.assert_array_equal(first, kept)
