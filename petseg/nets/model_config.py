"""A network's architecture as data: :class:`ModelConfig`, its limits and its defaults."""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from shards.errors import UsageError, counted, option, spelled
from shards.format.labels import MAX_CLASSES

Name = Literal["unet", "tutorial"]
Norm = Literal["batch", "group"]
Upsample = Literal["bilinear", "transposed"]
Stem = Literal["full", "half"]
Skip = Literal["concat", "add"]

NO_ENCODER = "none"
IMAGENET, NO_WEIGHTS = "imagenet", "none"  # what an encoder starts from, if not a file
TORCHVISION = "torchvision/"  # before the name of an encoder of version 1
_TORCHVISION_ENCODERS = ("resnet18", "resnet34", "resnet50")

MIN_SIZE = 32  # below it the coarsest level of the U-Net is a single pixel, which has no batch statistics
MAX_SIZE = 2048  # pixels per side
MAX_INPUT_SCALE = 4.0
TUTORIAL_WIDTHS = (64, 128, 256)
UNET_WIDTHS = (24, 48, 96, 192, 256)


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network's architecture; stored in every checkpoint. A field's description is that of its option.

    The defaults here are those of a plain U-Net; :func:`default_model_config` has those of the commands.

    Attributes:
        name: ``unet`` or ``tutorial``.
        widths: channels of each level, finest first. ``tutorial`` always has 64, 128, 256.
        stem: resolution of the finest level: ``full``, or ``half``, a quarter of the work, where each pixel of the
            last features predicts a block of 2 x 2 (sub-pixel convolution, Shi et al. 2016).
        blocks: residual blocks per level.
        norm: ``batch`` normalisation, or ``group`` (8 channels per group) for very small batches.
        upsample: how the decoder doubles the resolution.
        join: how a skip connection is merged: ``concat`` as in the original U-Net, or ``add``, a sum, for which a 1x1
            convolution first maps the coarser features to as many channels at their lower resolution; the decoder's
            blocks then cost a half or a third.
        dropout: share of the coarsest level's channels dropped in training, 0 <= dropout < 1.
        encoder: timm's name of the encoder, or ``none``; ``torchvision/resnet18``, 34 and 50 are version 1's networks.
        decoder_widths: with an encoder, channels of the decoder's levels, finest first; empty for the defaults.
        input_scale: with an encoder of timm's, what the network enlarges images by before the encoder, 1 to 4; each
            side to the next multiple of the encoder's stride. Its output has the size of the image.
        classes: how many classes are predicted, 1..255: those of the labels it is trained on. Not an option.
    """

    name: Name = "unet"
    widths: Annotated[tuple[int, ...], Meta(description="Channels of unet's levels.")] = UNET_WIDTHS
    stem: Annotated[Stem, Meta(description="Resolution of unet's finest level.")] = "full"
    blocks: Annotated[int, Meta(description="Residual blocks per level of unet.")] = 1
    norm: Annotated[Norm, Meta(description="Normalisation in unet.")] = "batch"
    upsample: Annotated[Upsample, Meta(description="How the decoder doubles the resolution.")] = "bilinear"
    join: Annotated[Skip, Meta(description="Skip connections; add means sum.")] = "concat"
    dropout: Annotated[float, Meta(description="Of unet's coarsest channels.")] = 0.0
    encoder: Annotated[str, Meta(description="One of timm's networks as unet's encoder, by name.")] = NO_ENCODER
    decoder_widths: Annotated[tuple[int, ...], Meta(description="Channels of the levels above --encoder.")] = ()
    input_scale: Annotated[float, Meta(description="Enlarge images before --encoder, in the network.")] = 1.0
    classes: int = 3

    def check(self) -> None:
        """Raise ``UsageError`` for values that no network can be built from, or that do not fit each other."""
        self._check_types()
        if self.name == "tutorial" and self != ModelConfig(
            name="tutorial", widths=TUTORIAL_WIDTHS, classes=self.classes
        ):
            raise UsageError(
                spelled(
                    "--model=tutorial has a fixed architecture: --widths, --stem, --blocks, --norm, --upsample, "
                    "--skip, --dropout, --encoder, --decoder-widths and --input-scale are for --model=unet"
                )
            )
        if self.name == "unet" and not 2 <= len(self.widths) <= 6:
            raise UsageError(
                f"{option('widths')} names {counted(len(self.widths), 'level')}; give 2 to 6, such as 24,48,96,192,256"
            )
        if any(width < 1 or width > 4096 for width in self.widths):
            raise UsageError(f"{option('widths', self.widths)}: every level needs 1 to 4096 channels")
        if any(width < 1 or width > 4096 for width in self.decoder_widths):
            raise UsageError(f"{option('decoder_widths', self.decoder_widths)}: every level needs 1 to 4096 channels")
        if self.norm == "group":
            for named, widths in (
                (option("widths"), self.widths),
                (option("decoder_widths"), self.decoder_widths),
            ):
                if any(width % 8 for width in widths):
                    raise UsageError(
                        f"{option('norm', 'group')} puts 8 channels in a group: make every number of {named} a "
                        "multiple of 8"
                    )
        if not 1 <= self.blocks <= 16:
            raise UsageError(f"{option('blocks', self.blocks)}: give 1 to 16")
        if not 1 <= self.classes <= MAX_CLASSES:
            raise UsageError(f"a network of {self.classes} classes is impossible: 1 to {MAX_CLASSES} are")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"{option('dropout', self.dropout)}: give a share from 0 to below 1")
        for named, value, choices in (
            ("skip", self.join, get_args(Skip)),
            ("stem", self.stem, get_args(Stem)),
        ):
            if value not in choices:
                raise UsageError(f"{option(named, value)}: choose from {', '.join(choices)}")
        self._check_encoder()

    def _check_types(self) -> None:
        try:
            msgspec.convert(msgspec.structs.asdict(self), type(self))
        except msgspec.ValidationError as error:
            raise UsageError(f"the network's architecture: {error}") from None

    def _check_encoder(self) -> None:
        if self.encoder == NO_ENCODER:
            if self.decoder_widths:
                raise UsageError(spelled("--decoder-widths needs --encoder; a plain U-Net has --widths"))
            if self.input_scale != 1:
                raise UsageError(spelled("--input-scale needs --encoder; a plain U-Net has --stem=full and --size"))
            return
        if self.widths != UNET_WIDTHS:
            raise UsageError(
                spelled("--encoder has its own widths: omit --widths; those of the decoder are --decoder-widths")
            )
        if not 1 <= self.input_scale <= MAX_INPUT_SCALE:
            raise UsageError(f"{option('input_scale', self.input_scale)}: give a number from 1 to {MAX_INPUT_SCALE:g}")
        if not self.encoder.startswith(TORCHVISION):
            return
        if self.encoder.removeprefix(TORCHVISION) not in _TORCHVISION_ENCODERS:
            choices = ", ".join(TORCHVISION + name for name in _TORCHVISION_ENCODERS)
            raise UsageError(f"{option('encoder', self.encoder)}: version 1's encoders are {choices}")
        if self.stem != "full" or self.decoder_widths or self.input_scale != 1:
            raise UsageError(
                f"{option('encoder', self.encoder)} is version 1's network: {option('stem', 'full')}, no "
                f"{option('decoder_widths')}, no {option('input_scale')}"
            )


def default_model_config(name: Name) -> ModelConfig:
    """Return the architecture of ``--model NAME`` without further options."""
    if name == "tutorial":
        return ModelConfig(name=name, widths=TUTORIAL_WIDTHS)
    return ModelConfig(name=name, stem="half", join="add")
