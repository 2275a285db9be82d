"""Pictures inside the page: base64 data URIs with alternative texts."""

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from genlib.errors import GenlibError
from genlib.presentation.catalogue import Figure

_WIDE_PIXELS = 720
_TYPES = {".png": "image/png", ".gif": "image/gif"}


@dataclass(frozen=True)
class Picture:
    """An embedded picture. `still` is the last frame of an animation, for paper and for who wants no motion."""

    uri: str
    still: str | None
    alt: str
    title: str
    caption: str
    width: int
    height: int

    @property
    def wide(self) -> bool:
        """Whether it deserves a row of its own."""
        return self.width > _WIDE_PIXELS


def embed(path: Path, words: Figure, whose: str) -> Picture:
    """The PNG or GIF at `path`; `words` and `whose` ("of the run mnist-gan") make its alternative text.

    Raises:
        GenlibError: the file is not a picture.
    """
    data = path.read_bytes()
    try:
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
            still = _last_frame(image) if getattr(image, "is_animated", False) else None
    except (UnidentifiedImageError, OSError) as error:
        raise GenlibError(f"{path}: not a picture ({error}); delete it and run dvc repro") from error
    alt = " ".join([f"{words.title} {whose}.", words.caption]).strip()
    return Picture(_uri(_TYPES[path.suffix], data), still, alt, words.title, words.caption, width, height)


def _last_frame(image: Image.Image) -> str:
    image.seek(getattr(image, "n_frames", 1) - 1)
    buffer = BytesIO()
    image.convert("RGB").save(buffer, format="PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"
