"""Small pictures for the fuzzers of archives, and what preprocessing does with each."""

import io
from functools import cache

import numpy as np
from PIL import Image

from fuzz.harness import instrumented

with instrumented():
    from genlib.data.readers.decode import Shape, frame_of, pixels
    from genlib.data.readers.reading import Picture


@cache
def drawn(kind: str) -> bytes:
    """A picture of 20 x 16 pixels, as JPEG, progressive JPEG or PNG."""
    content = io.BytesIO()
    image = Image.fromarray(np.arange(20 * 16 * 3, dtype=np.uint8).reshape(16, 20, 3))
    image.save(content, kind.split()[-1], **({"progressive": True} if " " in kind else {}))
    return content.getvalue()


def looked_at(picture: Picture) -> None:
    """Decoded, cropped and resized as preprocessing does it."""
    width, height = frame_of(picture)
    side = min(width, height)
    assert pixels(picture, Shape((width, height), (0, 0, side, side), 8)).shape == (3, 8, 8)
