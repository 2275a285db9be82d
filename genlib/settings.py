"""The shape of what params.yaml configures: one frozen type for each thing. Needs no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

MOST = 2**63 - 1
"""The largest whole number that a setting may be, where no smaller one is stated."""

Count = Annotated[int, Field(ge=1, le=MOST)]
Rate = Annotated[float, Field(gt=0, le=1e30)]
Seed = Annotated[int, Field(ge=0, le=MOST)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Share = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """A setting that cannot change and refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MnistSource(Frozen):
    """The official MNIST archives."""

    kind: Literal["mnist"]


class DigitsSource(Frozen):
    """Digits drawn by genlib (`genlib.data.kinds.digits`), in MNIST's format."""

    kind: Literal["digits"]
    train_images: Count
    test_images: Count


class LfwSource(Frozen):
    """Labeled Faces in the Wild, deep funneled, with the people of the official development split (View 1)."""

    kind: Literal["lfw"]


class CelebaSource(Frozen):
    """CelebA, aligned and cropped, with its attributes, identities and official partition."""

    kind: Literal["celeba"]


class FacesSource(Frozen):
    """Faces drawn by genlib (`genlib.data.kinds.faces`), in CelebA's format."""

    kind: Literal["faces"]
    train_images: Count
    validation_images: Count
    test_images: Count


class FolderSource(Frozen):
    """A folder of images of the user's own.

    `path`: absolute, from the home folder (`~/photos`), or relative to the folder that holds params.yaml.
    """

    kind: Literal["folder"]
    path: Annotated[str, Field(min_length=1, max_length=1000)]


Source = Annotated[
    MnistSource | DigitsSource | LfwSource | CelebaSource | FacesSource | FolderSource,
    Field(discriminator="kind"),
]


class DatasetSettings(Frozen):
    """Where images come from and how they are prepared; `dataset_settings` says which kind has which further keys."""

    source: Source
    image_size: Annotated[int, Field(ge=8, le=512)]


class IdxSettings(DatasetSettings):
    """MNIST's format; the last `validation_images` training images are held out."""

    validation_images: Count


class LfwSettings(DatasetSettings):
    """`crop`: side of the central square that is kept, in pixels of the frame.

    Whole people of the training list are held out until they have at least `validation_images` images.
    """

    crop: Count
    validation_images: Count


class CelebaSettings(DatasetSettings):
    """`crop`: side of the central square, in pixels of a frame 178 wide; it is scaled with frames of another width.

    `limit`: only the first so many images of each split; None is all of them.
    """

    crop: Annotated[int, Field(ge=1, le=178)]
    limit: Count | None


class FolderSettings(DatasetSettings):
    """Only `source` and `image_size` have to be given.

    `labels`: whether the folders directly below are classes. `channels`: 3 (colour) or 1 (grey), whatever the files
    have. `crop`: side of the central square that is kept, as a share of the shorter side of each image.
    `validation_share` and `test_share`: of the images, about, for a file's content decides its split. `limit`: only the
    first so many images of each split, in the order of their checksums; None is all of them.
    """

    labels: Literal["none", "folders"] = "none"
    channels: Literal[1, 3] = 3
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    validation_share: Annotated[float, Field(gt=0, le=0.4)] = 0.1
    test_share: Annotated[float, Field(gt=0, le=0.4)] = 0.2
    limit: Count | None = None


def image_shape(settings: DatasetSettings) -> tuple[int, int, int]:
    """Channels, height and width of a dataset's processed images."""
    channels = 1 if isinstance(settings, IdxSettings) else 3
    if isinstance(settings, FolderSettings):
        channels = settings.channels
    return channels, settings.image_size, settings.image_size


def dataset_settings(kind: str) -> type[DatasetSettings]:
    """The type that checks `data.<dataset>` for a kind of source; KeyError for an unknown one."""
    return _SETTINGS[kind]


_SETTINGS: dict[str, type[DatasetSettings]] = {
    "mnist": IdxSettings,
    "digits": IdxSettings,
    "lfw": LfwSettings,
    "celeba": CelebaSettings,
    "faces": CelebaSettings,
    "folder": FolderSettings,
}


class FeatureSettings(Frozen):
    """Training of the measuring network.

    `seed`: its own, so that repetitions of a run with other seeds are measured with the same network. `shift`: training
    images are moved by up to so many pixels; `flip`: and mirrored left to right at random.
    """

    seed: Seed
    net: Literal["plain", "residual"]
    epochs: Count
    batch_size: Count
    lr: Rate
    width: Annotated[int, Field(ge=1, le=1024)]
    shift: Annotated[int, Field(ge=0, le=8)]
    flip: bool


class ProgressSettings(Frozen):
    """What training records on its way. `judged`: samples that are judged after each epoch, for models that are."""

    frames: Annotated[int, Field(ge=2, le=1000)]
    images: Annotated[int, Field(ge=1, le=256)]
    codes: Count
    rows_per_epoch: Count
    judged: Annotated[int, Field(ge=2)]


class SampleSettings(Frozen):
    """What is drawn from a trained model: `images` for evaluation, but no more than the test split has.

    `attributes`: directions in a VAE's latent space to show, where the dataset's labels are attributes.
    """

    images: Annotated[int, Field(ge=64)]
    grid: Annotated[int, Field(ge=1, le=1024)]
    interpolations: Annotated[int, Field(ge=1, le=64)]
    manifold: Annotated[int, Field(ge=2, le=64)]
    gradient_draws: Annotated[int, Field(ge=2)]
    gradient_images: Count
    neighbours: Annotated[int, Field(ge=1, le=16)]
    attributes: Annotated[tuple[str, ...], Field(strict=False)]


class ImportanceSettings(Frozen):
    """The importance-weighted bound: `samples` draws for each of `images` test images, chosen at random."""

    samples: Count
    images: Annotated[int, Field(ge=2, le=MOST)]  # one has no standard error


class EvaluateSettings(Frozen):
    """How a model is measured; docs/evaluation.md says what each number means.

    `seed`: of what is drawn for measuring, the same for every model. `sets`: independent sets of samples. `neighbours`:
    k of precision, recall, density and coverage. `pairs`: of samples compared by SSIM. `nearest_images`: samples of
    each set whose nearest training images are looked for. `importance_of`: overrides `importance` for single runs.
    `features`: inception measures the samples in the field's standard features as well.
    """

    seed: Seed
    sets: Annotated[int, Field(ge=1, le=100)]
    neighbours: Annotated[int, Field(ge=1, le=100)]
    pairs: Annotated[int, Field(ge=1, le=1_000_000)]
    nearest_images: Annotated[int, Field(ge=100)]
    covered_share: Annotated[float, Field(gt=0, le=1)]
    importance: ImportanceSettings
    importance_of: dict[Name, ImportanceSettings]
    features: Literal["domain", "inception"]

    def of_run(self, run: str) -> ImportanceSettings:
        """The importance-weighted bound of a run."""
        return self.importance_of.get(run, self.importance)


class LaneSettings(Frozen):
    """A page: the runs that name this lane."""

    title: Annotated[str, Field(min_length=1)]


class RunSettings(Frozen):
    """The effective settings of a run: its model's section overlaid with its own lines.

    Every objective extends this with what its model needs. `ema_halflife_images`: half-life, in training images, of
    the running average of the weights that draw images; None is off. `latent_dim`: numbers in a latent code.
    `width`: channels of the first convolution. `flip`: training images are mirrored left to right at random.
    """

    lane: Name
    dataset: Name
    features: Name
    model: Name
    net: Name
    latent_dim: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=1024)]
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    flip: bool
    lr: Rate
    ema_halflife_images: PositiveFloat | None
    precision: Literal["float32", "tf32", "bf16"]
