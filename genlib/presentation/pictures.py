"""Pictures inside the page: base64 data URIs with alternative texts. Large ones are embedded as WebP."""

from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence, UnidentifiedImageError

from genlib.errors import GenlibError
from genlib.presentation.catalogue import Figure

_WIDE_PIXELS = 720
_LARGE_BYTES = 150_000
_REMEMBERED = 64
_THREADS = 4
_LOSSLESS: dict[str, Any] = {"lossless": True, "quality": 50, "method": 4}
_STILL: dict[str, Any] = {"quality": 90, "method": 4}
_MOVING: dict[str, Any] = {"quality": 65, "method": 4}
_TYPES = {".png": "image/png", ".gif": "image/gif"}


@dataclass(frozen=True)
class Picture:
    """An embedded picture. `still` is the last frame of an animation, for paper and for who wants no motion.

    `plain`: images only, without text in it.
    """

    uri: str
    still: str | None
    alt: str
    title: str
    caption: str
    width: int
    height: int
    plain: bool

    @property
    def wide(self) -> bool:
        """Whether it deserves a row of its own."""
        return self.width > _WIDE_PIXELS and not self.plain


def embed(path: Path, words: Figure, whose: str) -> Picture:
    """The PNG or GIF at `path`; `words` and `whose` ("of the run mnist-gan") make its alternative text.

    Raises:
        GenlibError: the file is not a picture.
    """
    try:
        uri, still, width, height = _encoded(_TYPES[path.suffix], path.read_bytes())
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise GenlibError(f"{path}: not a picture ({error}); delete it and run dvc repro") from error
    alt = " ".join([f"{words.title} {whose}.", words.caption]).strip()
    return Picture(uri, still, alt, words.title, words.caption, width, height, words.plain)


def embed_all(figures: Sequence[tuple[Path, Figure]], whose: str) -> list[Picture]:
    """`embed` each of them, in their order, several at a time. Raises as `embed`."""
    with ThreadPoolExecutor(_THREADS) as pool:  # Pillow's encoders leave the interpreter to other threads
        return list(pool.map(lambda figure: embed(figure[0], figure[1], whose), figures))


@lru_cache(maxsize=_REMEMBERED)
def _encoded(kind: str, data: bytes) -> tuple[str, str | None, int, int]:
    """Data URIs of a picture and of its last frame if it moves, width and height; many pictures are shown twice."""
    with Image.open(BytesIO(data)) as image:
        width, height = image.size
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
        durations = [frame.info.get("duration", 0) for frame in ImageSequence.Iterator(image)]
    uri = _smallest(kind, data, frames, durations)
    still = _smallest("image/png", _png(frames[-1]), frames[-1:], []) if len(frames) > 1 else None
    return uri, still, width, height


def _smallest(kind: str, data: bytes, frames: list[Image.Image], durations: list[int]) -> str:
    """The picture's own bytes, or, where they are many, the smallest of them and its WebP forms, as a data URI.

    Lossless WebP takes an animation's images seconds, and never was its smallest form.
    """
    forms = [(kind, data)]
    if len(data) > _LARGE_BYTES:
        tried = (_MOVING,) if len(frames) > 1 else (_LOSSLESS, _STILL)
        forms += [("image/webp", _webp(frames, durations, options)) for options in tried]
    kind, data = min(forms, key=lambda form: len(form[1]))
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"


def _webp(frames: list[Image.Image], durations: list[int], options: dict[str, Any]) -> bytes:
    buffer = BytesIO()
    if len(frames) > 1:
        options = options | {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    frames[0].save(buffer, format="WEBP", **options)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
