"""The interface of an engine, which turns the work of one batch into tensors."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.order.augmentation import NO_AUGMENTATION, Augmentation, Parameters, suggests_fields
from shards.errors import UsageError, expect_flags, is_number, is_whole_number
from shards.format.geometry import Fit, Scales, Size
from shards.format.layout import SAMPLE_DTYPE, Rows, Storage

if TYPE_CHECKING:
    import torch

# Batches that exist besides the ``prefetch`` that are prepared in advance: the one that the caller still holds while
# the next is handed over, that one, and the one after it, started on the device or waiting to be handed over.
IN_FLIGHT = 3


Decode = Literal["full", "scaled"]

MIB = 1 << 20
MAX_PREALLOCATED = 1 << 30  # bytes of decoded pixels, for a whole batch
SMALL_IMAGE = 256 * 256  # pixels up to which the JPEG engines are slower than nvJPEG's other decoder


@suggests_fields
@dataclass(frozen=True, kw_only=True)
class DecoderOptions:
    """How DALI decodes JPEGs on a GPU. The arguments are all set, so that none depends on DALI's version.

    Attributes:
        hw_decoder_load: the part of a batch's JPEGs that the GPU's JPEG engines decode, where it has any (A100, H100);
            0..1. The engines take neither the processors that train the network nor a host thread, but as long for
            a small image as for a large one; nvJPEG's other decoder takes both, as it decodes the Huffman code on the
            host. None: all, unless the set's largest image has at most 256 x 256 pixels, then none (docs/gpu.md).
        preallocate: reserve memory for the set's largest image when the pipeline is built, up to 1 GiB for a batch,
            instead of again and again as larger images come along, which makes the device wait.
        hybrid_huffman_threshold: from how many pixels on the GPU takes part in decoding the Huffman code of an image
            that the engines do not decode. DALI's own value.
        device_memory_padding: bytes of device memory that nvJPEG reserves for each thread; None: what the
            coefficients of the set's largest image take, 3 x 2 bytes a pixel, from 1 to 256 MiB.
        host_memory_padding: likewise for each of two page-locked buffers of each thread; None: half of that, the
            proportion of DALI's own values.

    Raises:
        UsageError: a value is out of range.
    """

    hw_decoder_load: float | None = None
    preallocate: bool = True
    hybrid_huffman_threshold: int = 1_000_000
    device_memory_padding: int | None = None
    host_memory_padding: int | None = None

    def __post_init__(self) -> None:
        expect_flags(preallocate=self.preallocate)
        if self.hw_decoder_load is not None and not is_number(self.hw_decoder_load, 0, 1):
            raise UsageError(f"hw_decoder_load must be from 0 to 1, not {self.hw_decoder_load!r}")
        for name in ("hybrid_huffman_threshold", "device_memory_padding", "host_memory_padding"):
            value = getattr(self, name)
            optional = value is None and name != "hybrid_huffman_threshold"
            if not optional and not is_whole_number(value, 0, 2**31 - 1):
                raise UsageError(f"{name} must be from 0 to 2147483647, not {value!r}")

    def arguments(self, *, largest: Size, batch_size: int) -> dict[str, Any]:
        """Return the arguments of ``fn.decoders.image``.

        ``largest`` is (height, width) in pixels of the largest image.
        """
        height, width = largest
        fits = 3 * height * width * batch_size <= MAX_PREALLOCATED
        hints = largest if self.preallocate and fits else (0, 0)  # 0: none
        padding = min(max(-(-6 * height * width // MIB), 1), 256) * MIB
        device, host = self.device_memory_padding, self.host_memory_padding
        load = 0.0 if 0 < height * width <= SMALL_IMAGE else 1.0
        return {
            "hw_decoder_load": load if self.hw_decoder_load is None else self.hw_decoder_load,
            "preallocate_height_hint": hints[0],
            "preallocate_width_hint": hints[1],
            "hybrid_huffman_threshold": self.hybrid_huffman_threshold,
            "device_memory_padding": padding if device is None else device,
            "host_memory_padding": padding // 2 if host is None else host,
        }


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What an engine is built for."""

    storage: Storage
    stored_size: Size | None  # (height, width) of every stored image, None where each has its own
    size: Size  # (H, W) of the output
    fit: Fit  # how images of another aspect ratio are brought to it
    crop_scale: Scales | None = None  # of crops that replace it: output pixels per image pixel
    decode: Decode = "full"  # scaled: JPEGs at half, a quarter or an eighth where that is not below the output's size
    classes: int  # N
    onehot: bool  # one-hot masks instead of class indices
    augment: Augmentation | None  # which operations the parameters may ask for
    batch_size: int  # the maximum number of samples in a batch
    threads: int  # that work in this process, in all
    prefetch: int  # how many batches are prepared in advance
    largest: Size = (0, 0)  # the largest height and the largest width of the stored images; (0, 0): not known
    decoder: DecoderOptions = field(default_factory=DecoderOptions)  # on a GPU

    @property
    def operations(self) -> Augmentation:
        """The augmentation, with every operation off if there is none."""
        return self.augment or NO_AUGMENTATION

    @property
    def crops(self) -> bool:
        """Whether boxes may be less than the whole image."""
        return self.operations.area is not None or self.fit == "cover" or self.crop_scale is not None

    @property
    def letterboxes(self) -> bool:
        """Whether places may be less than the whole output."""
        return self.fit == "contain" or self.crop_scale is not None

    @property
    def as_stored(self) -> bool:
        """Whether the output's pixels are those that are stored."""
        return self.stored_size == self.size and self.augment is None and self.crop_scale is None

    @property
    def batch_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes in memory of a batch's images (B, H, W, 3) and masks (B, N, H, W) or (B, H, W), both uint8."""
        planes = (self.classes,) if self.onehot else ()
        return (self.batch_size, *self.size, 3), (self.batch_size, *planes, *self.size)

    @property
    def spare(self) -> int:
        """For how many batches memory is kept: all that can exist at a time; a dropped stream's serves the next one."""
        return self.prefetch + IN_FLIGHT


# The work of a sample; every field is aligned, and a batch crosses to another process in one copy.
WORK_DTYPE: Final = np.dtype(
    [
        ("index", np.int64),  # in the split
        ("row", SAMPLE_DTYPE),  # its record in the set's table
        ("boxes", np.int32, (4,)),  # from here on as in Parameters
        ("places", np.int32, (4,)),
        ("brightness", np.float32),
        ("contrast", np.float32),
        ("saturation", np.float32),
        ("flip", np.bool_),
    ],
    align=True,
)
_PARAMETERS: Final = tuple(each.name for each in fields(Parameters))


@dataclass(frozen=True)
class BatchWork:
    """Everything that determines the tensors of one batch of B samples."""

    records: Rows  # of WORK_DTYPE, (B,)

    @classmethod
    def of(cls, *, indices: npt.NDArray[np.int64], rows: Rows, parameters: Parameters) -> "BatchWork":
        """Return the work of samples, (B,), with their records in the set's table and their parameters."""
        records = np.empty(len(indices), dtype=WORK_DTYPE)
        records["index"], records["row"] = indices, rows
        for name in _PARAMETERS:
            records[name] = getattr(parameters, name)
        return cls(records)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """The samples' numbers in the split, (B,)."""
        return np.asarray(self.records["index"])

    @property
    def rows(self) -> Rows:
        """Their records in the set's table, (B,)."""
        return self.records["row"]

    @cached_property
    def parameters(self) -> Parameters:
        """What is applied to them."""
        return Parameters(**{name: self.records[name] for name in _PARAMETERS})

    def part(self, positions: slice) -> "BatchWork":
        """Return the work of some of the samples."""
        return BatchWork(self.records[positions])


def stored_sizes(rows: Rows, stored_size: Size | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the heights and widths of stored images in pixels according to the table, int64 (B,) each."""
    if stored_size is None:
        return rows["height"].astype(np.int64), rows["width"].astype(np.int64)
    height, width = stored_size
    return np.full(len(rows), height), np.full(len(rows), width)


class Engine(Protocol):
    """Turns work into tensors, in the same order.

    ``prepare`` runs in the loader's prefetch threads, in advance. ``start`` and ``finish`` run in the thread that
    iterates; ``start`` is called for the next batches before the training step on the present one, so that the device
    overlaps them. ``prepare`` and ``finish`` raise :class:`pipeline.io.damage.DamagedSamples` for samples that cannot
    be used; the engine stays usable.
    """

    name: str
    makers: int  # how many threads may be in ``prepare`` at a time, each with its own batch; 0: it returns at once
    ahead: int  # how many batches to start before the first of them is finished; 0: ``start`` does nothing
    batch_bytes: int | None  # of the memory that ``prepare`` puts a batch's tensors into; None: owned by DALI

    def prepare(self, work: BatchWork) -> Any:
        """Do the host's part; the result is passed to ``start``."""

    def start(self, prepared: Any) -> Any:
        """Start the device's part without waiting; the result is passed to ``finish``."""

    def finish(self, started: Any) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the image, uint8 (B, 3, H, W), and the mask, as :class:`pipeline.Batch` describes them."""

    def close(self) -> None:
        """Release threads and memory."""
