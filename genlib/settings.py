"""The shape of what params.yaml configures: one frozen type for each thing. Needs no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

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
    train_images: PositiveInt
    test_images: PositiveInt


Source = Annotated[MnistSource | DigitsSource, Field(discriminator="kind")]


class DatasetSettings(Frozen):
    """Where images come from and how they are prepared."""

    source: Source
    image_size: Annotated[int, Field(ge=8, le=512)]
    validation_images: PositiveInt


class FeatureSettings(Frozen):
    """Training of the measuring network."""

    epochs: PositiveInt
    batch_size: PositiveInt
    lr: PositiveFloat
    width: PositiveInt
    shift: Annotated[int, Field(ge=0, le=8)]


class ProgressSettings(Frozen):
    """What training records on its way."""

    frames: Annotated[int, Field(ge=2, le=1000)]
    images: Annotated[int, Field(ge=1, le=256)]
    codes: PositiveInt
    rows_per_epoch: PositiveInt


class SampleSettings(Frozen):
    """What is drawn from a trained model."""

    images: Annotated[int, Field(ge=64)]
    grid: Annotated[int, Field(ge=1, le=1024)]
    interpolations: Annotated[int, Field(ge=1, le=64)]
    manifold: Annotated[int, Field(ge=2, le=64)]
    gradient_draws: Annotated[int, Field(ge=2)]
    gradient_images: PositiveInt


class EvaluateSettings(Frozen):
    """How samples are judged."""

    covered_share: Share


class LaneSettings(Frozen):
    """A page: the runs that name this lane."""

    title: Annotated[str, Field(min_length=1)]


class RunSettings(Frozen):
    """The effective settings of a run: its model's section overlaid with its own lines.

    Every objective extends this with what its model needs. `ema_halflife_images`: half-life, in training images, of
    the running average of the weights that draw images; None is off. `latent_dim`: numbers in a latent code.
    `width`: channels of the first convolution.
    """

    lane: Name
    dataset: Name
    features: Name
    model: Name
    net: Name
    latent_dim: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=1024)]
    epochs: PositiveInt
    batch_size: Annotated[int, Field(ge=2)]
    lr: PositiveFloat
    ema_halflife_images: PositiveFloat | None
    precision: Literal["float32", "tf32", "bf16"]
