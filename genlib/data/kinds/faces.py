"""The embedded dataset `faces`: drawn faces of known factors, in the zip and the two lists of CelebA.

The same bytes come out on every machine: shapes, light and colours are integer arithmetic from end to end (no drawing
library, no font, no floating point), and PNG files are written without a compressor. Random numbers come from
`numpy.random.RandomState`, whose stream NumPy has frozen (NEP 19).

Lengths are in units, 1/16 of a pixel of the 64 x 64 image. The origin of a face lies between its eyes; x grows to the
right, y downwards. A *level* is about the distance to the edge of a shape, in units, positive inside; a *coverage* is
0 (outside) to `FULL`.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from genlib.errors import GenlibError
from genlib.files import staged_file, write_bytes

IMAGE_PIXELS = 64
COUNT_LIMIT = 50_000
ZIP_NAME = "img_align_celeba.zip"
ATTRIBUTES_NAME = "list_attr_celeba.txt"
PARTITION_NAME = "list_eval_partition.txt"

# How often, in percent, an attribute is asked for; those that exclude each other are settled in `draw_factors`.
# None of them tells left from right, so that a mirrored face keeps its attributes.
# fmt: off
_SHARES = {
    "Bald": 12, "Bangs": 38, "Beard": 24, "Bushy_Eyebrows": 35, "Dark_Background": 40, "Eyeglasses": 25,
    "Long_Hair": 50, "Mouth_Slightly_Open": 40, "Mustache": 20, "Pale_Skin": 24, "Side_Light": 40, "Smiling": 50,
    "Turned_Head": 45, "Wavy_Hair": 45, "Wearing_Hat": 14, "Wearing_Lipstick": 30,
}
# fmt: on
# Percentages; the rest of the heads are red.
_HAIR_SHARES = {"Black_Hair": 27, "Brown_Hair": 26, "Blond_Hair": 20, "Gray_Hair": 15}
ATTRIBUTES = tuple(sorted([*_SHARES, *_HAIR_SHARES]))

# Whatever else varies: lowest and highest value. Lengths are in units, slopes in 1/256, places in a palette in 1/4096.
# fmt: off
_RANGES = {
    # Pose: zoom and tilt in 1/4096 (330 is 4.6 degrees)
    "shift_x": (-20, 20), "shift_y": (-16, 16), "zoom": (3860, 4340), "tilt": (-330, 330),
    "turn_size": (0, 4095), "turn_side": (0, 1), "nod": (-16, 16), "gaze": (-9, 9),
    # Light: how much it changes the skin over a face's width and height, in 1/256
    "light_side": (0, 1), "light_size": (0, 40), "light_above": (10, 70),
    # Head
    "face_width": (252, 284), "face_height": (336, 362), "jaw": (40, 110), "skin": (0, 4095), "skin_warmth": (-7, 7),
    "blush": (0, 80), "nose_width": (34, 50), "nose_length": (116, 142),
    # Eyes and brows
    "eye_distance": (136, 152), "eye_width": (66, 80), "eye_height": (40, 56), "eye_slant": (-22, 30),
    "iris_colour": (0, 4095), "brow_height": (94, 110), "brow_arch": (4, 18), "brow_tilt": (-50, 10),
    # Mouth
    "mouth_height": (220, 240), "mouth_width": (84, 104), "mouth_curve": (-4, 16), "smile": (0, 20), "open": (0, 24),
    "lip_height": (13, 24), "lipstick": (0, 4095),
    # Hair
    "hair_tone": (0, 4095), "hair_volume": (30, 84), "hair_sides": (14, 52), "hair_length": (150, 400),
    "hairline": (184, 226), "hair_opening": (20, 200), "part": (-70, 70), "fringe": (112, 136),
    "fringe_slant": (-36, 36), "wave_phase": (0, 511),
    # Clothes, what is worn on the head, and the background
    "clothes": (0, 4095), "clothes_light": (-40, 30), "collar": (0, 1), "shoulders": (420, 540),
    "frame_colour": (0, 4095), "frame_square": (0, 220), "frame_width": (84, 98), "frame_height": (64, 82),
    "hat_colour": (0, 4095), "hat_brim": (0, 1), "hat_height": (36, 90), "hat_line": (140, 160),
    "back_colour": (0, 4095), "back_second": (0, 4095), "back_slope_x": (-120, 120), "back_slope_y": (-120, 120),
    "back_light": (-20, 20),
}
# fmt: on

_SKINS = ((238, 200, 172), (226, 180, 144), (206, 152, 114), (174, 122, 86), (138, 92, 62), (102, 68, 50))
_PALE_SKINS = ((254, 232, 218), (250, 224, 206))
_IRISES = ((62, 38, 24), (92, 58, 32), (110, 100, 50), (70, 120, 80), (70, 120, 160), (96, 150, 190))
_HAIRS = {
    "Black_Hair": ((22, 20, 26), (44, 36, 36)),
    "Brown_Hair": ((84, 52, 32), (126, 84, 50)),
    "Blond_Hair": ((208, 166, 92), (240, 212, 146)),
    "Gray_Hair": ((150, 150, 156), (206, 206, 210)),
    "Red_Hair": ((150, 56, 24), (196, 96, 44)),
}
_LIPSTICKS = ((224, 30, 56), (176, 14, 46), (232, 66, 120), (160, 24, 100))
_CLOTHES = ((40, 54, 92), (60, 120, 150), (70, 130, 90), (226, 206, 170), (214, 110, 70), (176, 50, 62), (110, 70, 130))
_FRAMES = ((24, 22, 26), (70, 40, 26), (130, 30, 36), (40, 60, 120))
_BACKGROUNDS = (
    *((222, 230, 238), (150, 196, 226), (110, 176, 180), (160, 206, 160), (228, 216, 150)),
    *((244, 186, 136), (230, 150, 150), (214, 160, 206), (160, 156, 222), (200, 200, 206)),
)

FULL = 256
_UNITS = 16  # per pixel
_SAMPLES = 2  # per pixel and axis
_CANVAS = IMAGE_PIXELS * _SAMPLES
_ORIGIN = (32 * _UNITS, 29 * _UNITS)
_EDGE = 10  # width, in units, of the ramp at the edge of a shape
_CHUNK_IMAGES = 16  # few enough to stay in the processor's cache
_SEED = 64_641_000  # the other splits take the next ones

_Ints = npt.NDArray[np.int32]
_Window = tuple[slice, slice]
Factors = Mapping[str, _Ints]
"""What is drawn: for each attribute (0 or 1) and each key of `_RANGES` its value in N images, N x 1 x 1."""

# Rows and columns of the canvas that a shape can reach, whatever the pose.
_WHOLE = (slice(0, 128), slice(0, 128))
_EARS = (slice(40, 86), slice(8, 120))
_EYES = (slice(32, 86), slice(12, 116))
_NOSE = (slice(40, 104), slice(30, 98))
_LOWER_FACE = (slice(48, 116), slice(14, 114))
_HAT = (slice(0, 72), slice(0, 128))
_BOTTOM = (slice(78, 128), slice(0, 128))


def draw_faces(folder: Path, train_images: int, validation_images: int, test_images: int) -> None:
    """Draw the three splits and write them into `folder` under CelebA's file names.

    `img_align_celeba.zip` holds `img_align_celeba/000001.png` and so on, 64 x 64 RGB: the training images first, then
    validation, then test. `list_attr_celeba.txt` gives the attributes (`ATTRIBUTES`) as 1 and -1,
    `list_eval_partition.txt` the split as 0, 1 or 2. The files depend on nothing but the three counts, and a split's
    images on its own count alone: fewer are the first ones of more. Each file appears whole or not at all; for the
    three of them together, pass a staged folder.

    Args:
        folder: created if need be.
        train_images, validation_images, test_images: 1 to `COUNT_LIMIT` each.

    Raises:
        GenlibError: a count is out of range.
    """
    counts = {"train_images": train_images, "validation_images": validation_images, "test_images": test_images}
    for key, count in counts.items():
        if not 1 <= count <= COUNT_LIMIT:
            raise GenlibError(f"{key}: {count} is out of range; set it to 1 to {COUNT_LIMIT}")
    splits = [draw_factors(count, np.random.RandomState(_SEED + i)) for i, count in enumerate(counts.values())]
    names = [f"{number:06d}.png" for number in range(1, sum(counts.values()) + 1)]

    with staged_file(folder / ZIP_NAME) as partial, ZipFile(partial, "w", ZIP_STORED) as archive:
        images = (image for factors in splits for chunk in _chunks(factors) for image in render(chunk))
        for name, image in zip(names, images, strict=True):
            member = ZipInfo(f"img_align_celeba/{name}", (1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o644 << 16
            archive.writestr(member, encode_png(image))

    values = np.concatenate([np.stack([factors[name].ravel() for name in ATTRIBUTES], axis=1) for factors in splits])
    signs = [" ".join(f"{2 * value - 1:2d}" for value in row) for row in values.tolist()]
    rows = [f"{name} {row}" for name, row in zip(names, signs, strict=True)]
    _write_lines(folder / ATTRIBUTES_NAME, [str(len(names)), " ".join(ATTRIBUTES), *rows])
    split = np.repeat(range(len(splits)), list(counts.values()))
    _write_lines(folder / PARTITION_NAME, [f"{name} {number}" for name, number in zip(names, split, strict=True)])


def draw_factors(count: int, random: np.random.RandomState) -> dict[str, _Ints]:
    """The factors of `count` faces. Those of the first n faces do not depend on how many follow."""
    columns = iter(random.randint(0, 1 << 16, (count, len(_SHARES) + len(_RANGES) + 1), dtype=np.int64).T)
    wanted = {name: next(columns) * 100 < share << 16 for name, share in _SHARES.items()}
    hair = next(columns) * 100 >> 16
    shape = {name: low + (next(columns) * (high - low + 1) >> 16) for name, (low, high) in _RANGES.items()}

    # What cannot be seen is not there.
    for name in ("Bangs", "Long_Hair", "Wavy_Hair", "Wearing_Hat"):
        wanted[name] &= ~wanted["Bald"]
    wanted["Bangs"] &= ~wanted["Wearing_Hat"]
    start = 0
    for name, share in _HAIR_SHARES.items():
        shape[f"{name}_roots"] = (start <= hair) & (hair < start + share)  # a bald head still has brows and a beard
        wanted[name] = shape[f"{name}_roots"] & ~wanted["Bald"]
        start += share
    return {name: value.astype(np.int32)[:, None, None] for name, value in {**wanted, **shape}.items()}


def render(factors: Factors) -> npt.NDArray[np.uint8]:
    """Draw the faces: uint8, N x 64 x 64 x 3 (red, green, blue)."""
    sheet = _Sheet(factors)
    _draw_background(sheet, factors)
    hair = _hair_level(sheet, factors)
    sheet.paint(_WHOLE, _cover(hair) * factors["Long_Hair"], sheet.hair * 140 >> 8)
    _draw_body(sheet, factors)
    _draw_head(sheet, factors)
    _draw_beard(sheet, factors)
    _draw_mouth(sheet, factors)
    _draw_nose(sheet, factors)
    _draw_eyes(sheet, factors)
    _draw_glasses(sheet, factors)
    _draw_hair(sheet, factors, hair)
    _draw_hat(sheet, factors)
    pairs = sheet.rgb[:, :, 0::2] + sheet.rgb[:, :, 1::2]
    pixels = (pairs[..., 0::2] + pairs[..., 1::2] + 2) >> 2
    return pixels.astype(np.uint8).transpose(0, 2, 3, 1)


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of `image`, uint8 H W 3, uncompressed (stored deflate blocks, RFC 1951) and unfiltered."""
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row starts with its filter type: none
    rows[:, 1:] = image.reshape(height, -1)
    data = rows.tobytes()
    starts = range(0, len(data), 0xFFFF)
    blocks = [
        struct.pack("<BHH", start == starts[-1], len(block), len(block) ^ 0xFFFF) + block
        for start, block in ((start, data[start : start + 0xFFFF]) for start in starts)
    ]
    stream = b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits per channel, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _write_lines(path: Path, lines: list[str]) -> None:
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def _chunks(factors: Factors) -> Iterator[Factors]:
    for start in range(0, len(factors["zoom"]), _CHUNK_IMAGES):
        yield {name: value[start : start + _CHUNK_IMAGES] for name, value in factors.items()}


class _Sheet:
    """Pictures in the making: `rgb` (N 3 rows columns) and where each sample lies (N rows columns).

    `x`, `y` are coordinates of the picture, `head_x`, `head_y` those of the tilted head, and `face_x`, `face_y` those
    of its front, which moves over the head when it turns: most in the middle, not at all at the outline.
    """

    def __init__(self, factors: Factors) -> None:
        f = factors
        spacing = _UNITS // _SAMPLES
        offset = np.arange(_CANVAS, dtype=np.int32) * spacing + spacing // 2
        self.x = offset[None, None, :] - _ORIGIN[0] - f["shift_x"]
        self.y = offset[None, :, None] - _ORIGIN[1] - f["shift_y"]
        self.head_x = (self.x * f["zoom"] + self.y * f["tilt"]) >> 12
        self.head_y = (self.y * f["zoom"] - self.x * f["tilt"]) >> 12
        turn = _choose(f["Turned_Head"], 46 + (f["turn_size"] * 26 >> 12), f["turn_size"] * 14 >> 12)
        self.turn = (2 * f["turn_side"] - 1) * turn
        self.face_x = self.head_x - (self.turn * (FULL - _squared(self.head_x, f["face_width"])) >> 8)
        self.face_y = self.head_y - (f["nod"] * (FULL - _squared(self.head_y, f["face_height"])) >> 8)
        self.light = (2 * f["light_side"] - 1) * (f["light_size"] + 90 * f["Side_Light"])
        self.skin = _skin(f)
        self.shadow = self.skin * _colour(150, 126, 122) >> 8
        self.hair = _hair_colour(f)
        self.rgb = np.zeros((len(self.x), 3, _CANVAS, _CANVAS), dtype=np.int32)

    def front(self, window: _Window) -> tuple[_Ints, _Ints]:
        return self.face_x[:, *window], self.face_y[:, *window]

    def head(self, window: _Window) -> tuple[_Ints, _Ints]:
        return self.head_x[:, *window], self.head_y[:, *window]

    def paint(self, window: _Window, coverage: _Ints, colour: _Ints) -> None:
        """Lay `colour` (N 3 1 1 or N 3 rows columns) over the window as far as it is covered (N rows columns)."""
        below = self.rgb[:, :, *window]
        change = colour - below
        change *= coverage[:, None]
        change += FULL // 2
        change >>= 8
        below += change


def _clip(value: _Ints, low: int, high: int) -> _Ints:
    clipped: _Ints = np.clip(value, low, high)
    return clipped


def _choose(flag: _Ints, yes: _Ints | int, no: _Ints | int) -> _Ints:
    """`yes` where the flag is 1, `no` where it is 0."""
    return no + (yes - no) * flag


def _both(*levels: _Ints) -> _Ints:
    """Level of what lies within all of these shapes."""
    return reduce(np.minimum, levels)


def _squared(x: _Ints, radius: _Ints) -> _Ints:
    """(x / radius) squared, at most 1, in 1/256."""
    ratio = _clip(x * (65536 // radius) >> 8, -FULL, FULL)
    return ratio * ratio >> 8


def _ellipse(x: _Ints, y: _Ints, width: _Ints | int, height: _Ints | int, square: _Ints | int = 0) -> _Ints:
    """Level of an ellipse of these radii around the origin, or, as `square` goes to 256, of a rounded rectangle.

    The shape between them is the squircle u^2 + v^2 - s u^2 v^2 = 1 of Fernandez-Guasti (1992).
    """
    u = _clip(x * (65536 // width) >> 8, -1024, 1024)
    v = _clip(y * (65536 // height) >> 8, -1024, 1024)
    u, v = u * u >> 4, v * v >> 4  # 1 is 4096
    outside = u + v - 4096
    if not isinstance(square, int) or square:
        outside = outside - ((np.minimum(u, 4096) * np.minimum(v, 4096) >> 12) * square >> 8)
    level: _Ints = -(outside * np.minimum(width, height)) >> 13
    return level


def _cover(level: _Ints, softness: int = _EDGE) -> _Ints:
    return _clip(level * FULL // softness + FULL // 2, 0, FULL)


def _wave(phase: _Ints) -> _Ints:
    """A smooth wave of period 512 and height -256 to 256, made of parabolas."""
    place = phase & 255
    bow = place * (256 - place) >> 6
    return bow * (1 - (phase >> 7 & 2))


def _mix(first: _Ints, second: _Ints, weight: _Ints | int) -> _Ints:
    """From `first` (weight 0) to `second` (weight 256)."""
    return first + ((second - first) * weight >> 8)


def _colour(red: int, green: int, blue: int) -> _Ints:
    """One colour for all images, as a 1 3 1 1 array."""
    return np.array([red, green, blue], dtype=np.int32)[None, :, None, None]


_BLACK, _WHITE = _colour(0, 0, 0), _colour(255, 255, 255)


def _from_palette(palette: tuple[tuple[int, int, int], ...], place: _Ints) -> _Ints:
    """The colour at `place` (0 to 4095) between the first and the last of the palette: N 3 1 1."""
    colours = np.array(palette, dtype=np.int32)
    position = place.ravel() * (len(palette) - 1)
    first = position >> 12
    return _mix(colours[first], colours[first + 1], ((position & 4095) >> 4)[:, None])[:, :, None, None]


def _skin(f: Factors) -> _Ints:
    pale = f["Pale_Skin"][:, None]
    tone = _choose(pale, _from_palette(_PALE_SKINS, f["skin"]), _from_palette(_SKINS, f["skin"]))
    return _clip(tone + f["skin_warmth"][:, None] * _colour(1, 0, -1), 0, 255)


def _hair_colour(f: Factors) -> _Ints:
    colour = _from_palette(_HAIRS["Red_Hair"], f["hair_tone"])
    for name in _HAIR_SHARES:
        colour = _choose(f[f"{name}_roots"][:, None], _from_palette(_HAIRS[name], f["hair_tone"]), colour)
    return colour


def _shaded(colour: _Ints, brightness: _Ints) -> _Ints:
    """`colour` (N 3 1 1) times `brightness` / 256 (N rows columns)."""
    return _clip(colour * brightness[:, None] >> 8, 0, 255)


def _draw_background(sheet: _Sheet, f: Factors) -> None:
    first, second = _from_palette(_BACKGROUNDS, f["back_colour"]), _from_palette(_BACKGROUNDS, f["back_second"])
    slope = (sheet.x * f["back_slope_x"] + sheet.y * f["back_slope_y"]) >> 9
    colour = _mix(first, second, _clip(slope + 128, 0, FULL)[:, None]) + f["back_light"][:, None]
    glow = _clip(FULL - (sheet.x * sheet.x + sheet.y * sheet.y >> 11), 0, FULL)
    brightness = _choose(f["Dark_Background"], 64 + (glow * 40 >> 8), 226 + (glow * 30 >> 8))
    sheet.rgb[:] = _shaded(colour, brightness)


def _hair_level(sheet: _Sheet, f: Factors) -> _Ints:
    """Level of the hair as if the face did not interrupt it."""
    x, y = sheet.head_x, sheet.head_y
    wave = _wave(x * 3 + f["wave_phase"]) * _wave(y * 3 + f["wave_phase"]) >> 8
    sway = _wave(y * 3 // 2 + f["wave_phase"]) * f["Wavy_Hair"]
    width, height = f["face_width"] + f["hair_sides"], f["face_height"] + f["hair_volume"]
    rise = 60 * (1 - f["Long_Hair"])
    crown = _ellipse(x, y + rise, width, height - rise, 40)
    curtain = _both(width + (np.maximum(y, 0) >> 4) - np.abs(x + (sway * 14 >> 8)), f["hair_length"] - y, y)
    hair = _choose(f["Long_Hair"], np.maximum(crown, curtain), _both(crown, 70 - y))
    return hair + (wave * 14 >> 8) * f["Wavy_Hair"]


def _opening_level(sheet: _Sheet, f: Factors) -> _Ints:
    """Level of the opening in the hair, through which the face is seen."""
    x, y = sheet.face_x, sheet.face_y
    slanted = y + (x * f["part"] >> 8)
    bottom = _choose(f["Long_Hair"], 520, 330)
    half_height = (f["hairline"] + bottom) >> 1
    width = f["face_width"] - _choose(f["Long_Hair"], 16, 10)
    opening = _ellipse(x, slanted - (bottom - f["hairline"] >> 1), width, half_height, f["hair_opening"])
    strands = _wave(x * 9 + f["wave_phase"]) * 7 >> 8
    fringe = y + f["fringe"] + (x * f["fringe_slant"] >> 8) + strands - (x * x >> 10)
    return _choose(f["Bangs"], _both(opening, fringe), opening)


def _hair_texture(sheet: _Sheet, f: Factors) -> _Ints:
    """Colour of hair everywhere: light from above and the side, strands or waves, a band of shine."""
    x, y = sheet.head_x, sheet.head_y
    bend = _wave(y * 4 + (x >> 1) + f["wave_phase"]) * 190 * f["Wavy_Hair"] >> 8
    strands = _wave(x * 5 + bend + f["wave_phase"]) + (_wave(x * 12 + bend) >> 1)
    strands = strands * _choose(f["Wavy_Hair"], 26, 10) >> 8
    shine = np.maximum(0, 64 - (np.abs(y + 250 - (x * x >> 10)) >> 1))
    brightness = 232 + strands + shine - (np.maximum(y + 200, 0) >> 3) + (x * sheet.light >> 9)
    gleam = np.maximum(brightness - 190, 0) >> 3
    return _clip(_shaded(sheet.hair, _clip(brightness, 120, 330)) + gleam[:, None], 0, 255)


def _draw_body(sheet: _Sheet, f: Factors) -> None:
    rows, columns = _BOTTOM
    x, y = sheet.x[:, :, columns], sheet.y[:, rows]
    clothes = _from_palette(_CLOTHES, f["clothes"]) + f["clothes_light"][:, None]
    body = _ellipse(x, y - 640, f["shoulders"], 240, 90)
    shade = 240 + (x * sheet.light >> 10) - (np.abs(x) >> 4)
    sheet.paint(_BOTTOM, _cover(body), _shaded(clothes, shade))

    neck_x = x - (sheet.turn >> 2)
    half_width = (f["face_width"] * 118 >> 8) + (np.maximum(y - 330, 0) >> 2)
    neckline = _choose(f["collar"], 560 - np.abs(neck_x), 470 - (neck_x * neck_x >> 9))
    neck = _both(half_width - np.abs(neck_x), y - 200, neckline - y)
    sheet.paint(_BOTTOM, _cover(_both(body, neck + 16)), _clip(clothes * 190 >> 8, 0, 255))
    shade = _clip(200 + (neck_x * sheet.light >> 8), 0, FULL)[:, None]
    sheet.paint(_BOTTOM, _cover(neck), _mix(sheet.shadow, sheet.skin, shade))
    chin = _ellipse(neck_x, y - 60, f["face_width"], f["face_height"])
    sheet.paint(_BOTTOM, (_cover(chin, 100) * _cover(neck) >> 8) * 190 >> 8, sheet.shadow * 210 >> 8)


def _head_level(sheet: _Sheet, f: Factors, window: _Window) -> _Ints:
    x, y = sheet.head(window)
    y = y - 10
    narrowed = x + (x * (_squared(np.maximum(y, 0), f["face_height"]) * f["jaw"] >> 8) >> 8)
    return _ellipse(narrowed, y, f["face_width"], f["face_height"], 70)


def _draw_head(sheet: _Sheet, f: Factors) -> None:
    x, y = sheet.head(_WHOLE)
    ear_x, ear_y = sheet.head(_EARS)
    ear = _ellipse(np.abs(ear_x + (sheet.turn >> 2)) - f["face_width"] - 6, ear_y - 40, 40, 76)
    sheet.paint(_EARS, _cover(ear), _mix(sheet.shadow, sheet.skin, 170))
    sheet.paint(_EARS, _cover(ear - 16, 24) * 100 >> 8, sheet.shadow)

    head = _cover(_head_level(sheet, f, _WHOLE))
    across, down = x * 256 // f["face_width"], y * 256 // f["face_height"]
    rim = across * across + down * down >> 8
    shade = 226 + (across * sheet.light >> 8) - (down * f["light_above"] >> 8) - (rim * rim >> 10)
    lit = _mix(sheet.shadow, sheet.skin, _clip(shade, 0, FULL)[:, None])
    bright = _clip(shade - 230, 0, 90)[:, None] * 120 >> 8
    sheet.paint(_WHOLE, head, _mix(lit, _WHITE, bright))

    x, y = sheet.front(_LOWER_FACE)
    cheek = _ellipse(np.abs(x) - 150, y - 140, 90, 70)
    sheet.paint(_LOWER_FACE, _cover(cheek, 90) * f["blush"] >> 8, _mix(sheet.skin, _colour(226, 84, 84), 150))


def _draw_beard(sheet: _Sheet, f: Factors) -> None:
    x, y = sheet.front(_LOWER_FACE)
    top = 205 - (x * x * 4 >> 11)
    mouth = _ellipse(x, y - f["mouth_height"] - 6, f["mouth_width"] + 18, 56)
    level = _both(_head_level(sheet, f, _LOWER_FACE) + 14, y - top, -mouth)
    grain = _wave(x * 8 + y * 3 + f["wave_phase"]) * 10 >> 8
    colour = _shaded(sheet.hair, 196 + grain + (x * sheet.light >> 9))
    sheet.paint(_LOWER_FACE, _cover(level, 28) * f["Beard"] * 232 >> 8, colour)


def _draw_mouth(sheet: _Sheet, f: Factors) -> None:
    x, y = sheet.front(_LOWER_FACE)
    y = y - f["mouth_height"]
    smiling = f["Smiling"]
    half_width = f["mouth_width"] + smiling * (8 + f["smile"])
    middle = FULL - _squared(x, half_width)  # 0 at the corners, 256 halfway between
    curve = f["mouth_curve"] + smiling * (52 + f["smile"])
    gap = f["Mouth_Slightly_Open"] * (40 + f["open"]) * middle >> 8
    upper = (curve * (middle - 150) >> 8) - gap // 3
    lower = upper + gap
    within = half_width - np.abs(x)

    lip_height = f["lip_height"] * middle >> 8
    bow = lip_height * (200 + np.minimum(np.abs(x), 40)) >> 8
    lips = _both(y - upper + bow, lower + (lip_height * 5 >> 2) - y, within)
    natural = _mix(sheet.skin, _colour(176, 62, 70), 90)
    colour = _choose(f["Wearing_Lipstick"][:, None], _from_palette(_LIPSTICKS, f["lipstick"]), natural)
    below = _ellipse(x, y - lower - 50, half_width * 5 >> 3, 18)
    sheet.paint(_LOWER_FACE, _cover(below, 40) * 90 >> 8, sheet.shadow)
    sheet.paint(_LOWER_FACE, _cover(lips), colour)
    shine = _ellipse(x, y - lower - lip_height // 2, half_width * 3 >> 3, 9)
    sheet.paint(_LOWER_FACE, _cover(shine, 20) * 60 >> 8, _colour(255, 240, 240))

    inside = _cover(_both(y - upper, lower - y, within))
    sheet.paint(_LOWER_FACE, inside * 230 >> 8, _mix(_colour(74, 20, 28), colour * 100 >> 8, 80))
    teeth = _both(y - upper - 2, upper + (gap * 5 >> 3) - y, within - 14)
    sheet.paint(_LOWER_FACE, _cover(teeth) * f["Mouth_Slightly_Open"], _colour(244, 240, 232))

    crease = _both(10 - np.abs(np.abs(x) - half_width - 26 + (np.abs(y + 30) >> 2)), 56 - np.abs(y + 34))
    sheet.paint(_LOWER_FACE, _cover(crease, 24) * smiling * 44 >> 8, sheet.shadow)

    mustache = _both(21 - (np.abs(x) >> 4) - np.abs(y + 36 - (x * x >> 9)), 100 - np.abs(x))
    sheet.paint(_LOWER_FACE, _cover(mustache, 14) * f["Mustache"] * 240 >> 8, sheet.hair * 180 >> 8)


def _draw_nose(sheet: _Sheet, f: Factors) -> None:
    x, y = sheet.front(_NOSE)
    x = x - (sheet.turn >> 2)
    width, length = f["nose_width"], f["nose_length"]
    side = 1 - 2 * f["light_side"]
    bridge = _ellipse(x - side * (width * 5 >> 3), y - (length >> 1), 16, length * 5 >> 3)
    sheet.paint(_NOSE, _cover(bridge, 24) * (60 + (np.abs(sheet.light) >> 1)) >> 8, sheet.shadow)
    ball = _ellipse(x, y - length + 4, width, 28)
    sheet.paint(_NOSE, _cover(ball - 3, 40) * 60 >> 8, _mix(sheet.skin, _WHITE, 60))
    under = _both(_ellipse(x, y - length - 4, width + 6, 30), y - length - 4)
    sheet.paint(_NOSE, _cover(under, 28) * 150 >> 8, sheet.shadow)
    nostril = _ellipse(np.abs(x) - (width * 5 >> 3), y - length - 14, 15, 10)
    sheet.paint(_NOSE, _cover(nostril, 16) * 200 >> 8, sheet.shadow * 140 >> 8)
    shine = _ellipse(x + side * 6, y - length + 22, 12, 34)
    sheet.paint(_NOSE, _cover(shine, 30) * 90 >> 8, _mix(sheet.skin, _WHITE, 140))


def _draw_eyes(sheet: _Sheet, f: Factors) -> None:
    x, y = sheet.front(_EYES)
    right = np.sign(x)
    x = np.abs(x) - f["eye_distance"]
    socket = _ellipse(x, y + 26, 100, 70)
    sheet.paint(_EYES, _cover(socket, 90) * 70 >> 8, sheet.shadow)

    y = y + (x * f["eye_slant"] >> 8)
    middle = FULL - _squared(x, f["eye_width"])
    within = f["eye_width"] - np.abs(x)
    upper = -(f["eye_height"] * middle >> 8)
    lower = (f["eye_height"] - 14 - 12 * f["Smiling"]) * middle >> 8
    eye = _cover(_both(y - upper, lower - y, within))
    sheet.paint(_EYES, eye, _mix(_colour(236, 234, 232), sheet.shadow, _clip(70 - y + upper, 0, 70)[:, None]))

    across = x - right * (f["gaze"] + sheet.turn // 6)
    for level, colour in (
        (_ellipse(across, y + 4, 40, 40), _from_palette(_IRISES, f["iris_colour"]) * 150 >> 8),
        (_ellipse(across, y, 33, 33), _from_palette(_IRISES, f["iris_colour"])),
        (_ellipse(across, y + 4, 18, 18), _colour(14, 12, 14)),
        (_ellipse(across + right * 12, y + 18, 12, 12), _WHITE),
    ):
        sheet.paint(_EYES, eye * _cover(level) >> 8, colour)

    lashes = _both(11 + (x >> 4) - np.abs(y - upper), within + 10)
    sheet.paint(_EYES, _cover(lashes) * 230 >> 8, _colour(34, 24, 24))
    sheet.paint(_EYES, _cover(_both(4 - np.abs(y - lower), within)) * 110 >> 8, sheet.shadow * 160 >> 8)
    crease = _both(4 - np.abs(y - upper + 22), within)
    sheet.paint(_EYES, _cover(crease, 14) * 120 >> 8, sheet.shadow)

    x, y = sheet.front(_EYES)
    x = np.abs(x) - f["eye_distance"]
    curve = -f["brow_height"] + (x * x * f["brow_arch"] >> 12) - (x * f["brow_tilt"] >> 8)
    thickness = 8 + 16 * f["Bushy_Eyebrows"] - (np.maximum(x, -30) >> 4)
    brow = _both(thickness - np.abs(y - curve), 94 - np.abs(x - 4))
    sheet.paint(_EYES, _cover(brow, 12) * 236 >> 8, _mix(sheet.hair * 176 >> 8, _colour(50, 32, 24), 90))


def _draw_glasses(sheet: _Sheet, f: Factors) -> None:
    x, y = sheet.front(_EYES)
    y = y - 8
    beside = np.abs(x) - f["eye_distance"] - 2
    lens = _ellipse(beside, y, f["frame_width"], f["frame_height"], f["frame_square"])
    colour = _from_palette(_FRAMES, f["frame_colour"])
    worn = f["Eyeglasses"]
    glare = _both(lens, 16 - np.abs(beside + y - 20))
    sheet.paint(_EYES, _cover(lens) * worn * 26 >> 8, _colour(226, 236, 244))
    sheet.paint(_EYES, _cover(glare, 16) * worn * 70 >> 8, _WHITE)
    inner = f["eye_distance"] + 2 - f["frame_width"]
    bridge = _both(8 - np.abs(y + 22 - (x * x >> 8)), inner - np.abs(x) + 4)
    temple = _both(8 - np.abs(y + 18), beside - f["frame_width"], 268 - np.abs(x))
    sheet.paint(_EYES, _cover(np.maximum(np.maximum(9 - np.abs(lens), bridge), temple)) * worn, colour)


def _draw_hair(sheet: _Sheet, f: Factors, level: _Ints) -> None:
    level = _both(level, -_opening_level(sheet, f))
    has_hair = 1 - f["Bald"]
    cast = _cover(level + 14, 50) * _cover(_head_level(sheet, f, _WHOLE)) >> 8
    sheet.paint(_WHOLE, cast * has_hair * 120 >> 8, sheet.shadow)
    sheet.paint(_WHOLE, _cover(level) * has_hair, _hair_texture(sheet, f))


def _draw_hat(sheet: _Sheet, f: Factors) -> None:
    x, y = sheet.head(_HAT)
    worn = f["Wearing_Hat"]
    width = f["face_width"] + (f["hair_sides"] * 3 >> 2) + 16
    line = -f["hat_line"] - (x * x >> 12)
    dome = _both(_ellipse(x, y + 60, width, f["face_height"] + f["hat_height"] - 60, 110), line - y)
    colour = _from_palette(_CLOTHES, f["hat_colour"])
    shade = 226 + (x * sheet.light >> 9) - (y + 300 >> 3)
    ribs = _wave(x * 8) * 16 * (1 - f["hat_brim"]) >> 8
    sheet.paint(_HAT, _cover(dome) * worn, _shaded(colour, shade + ribs))
    cuff = _ellipse(x, y - line + 38, width + 10, 38, 240)
    brim = _ellipse(x, y - line + 14, width + 130, 44)
    edge = _choose(f["hat_brim"], brim, cuff)
    sheet.paint(_HAT, _cover(edge) * worn, _shaded(_mix(colour, _BLACK, 70), shade + 2 * ribs))
