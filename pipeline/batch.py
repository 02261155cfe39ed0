"""What a loader yields."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from shards.errors import PetsegError, UsageError, shown_value

if TYPE_CHECKING:
    import torch

    from pipeline.runtime.batch_plan import BatchIndices


class BatchFieldsError(PetsegError, TypeError):
    """A batch was unpacked or indexed, as the tuples of a ``torch.utils.data.DataLoader`` are."""

    def __init__(self) -> None:
        super().__init__("a Batch is no tuple: take batch.image, batch.mask, batch.index and batch.valid")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's slice of a global batch: B samples of H x W pixels.

    B is the same for all batches of a rank; it is 0 where an evaluation has more ranks than samples in a global batch.

    Attributes:
        image: uint8 (B, 3, H, W), channels_last, RGB, 0..255, on the loader's device.
        mask: uint8 on the same device, contiguous, with the N classes of ``Loader.labels``: one-hot (B, N, H, W), all
            zero where a pixel is ignored; or the class index (B, H, W), 0..N-1, and 255 where a pixel is ignored.
        index: int64 (B,) on the CPU: which sample of the split.
        valid: bool (B,) on the image's device: False for padding, which repeats samples and must not be counted.
        epoch: the epoch that the batch belongs to, counted from 0.
        number: which global batch of the epoch, counted from 0.
    """

    image: "torch.Tensor"
    mask: "torch.Tensor"
    index: "torch.Tensor"
    valid: "torch.Tensor"
    epoch: int
    number: int

    @classmethod
    def deliver(
        cls, samples: "BatchIndices", image: "torch.Tensor", mask: "torch.Tensor", *, device: "torch.device", epoch: int
    ) -> "Batch":
        """Return what an engine made of some samples as a batch of an epoch on ``device``."""
        import torch

        valid, empty = torch.from_numpy(samples.valid), not len(samples.valid)
        return cls(
            image=image.to(device) if empty else image,  # batches of no samples are made on the CPU
            mask=mask.to(device) if empty else mask,
            index=torch.from_numpy(samples.indices),
            valid=valid if device.type == "cpu" else valid.to(device, non_blocking=True),
            epoch=epoch,
            number=samples.number,
        )

    def to(self, device: "torch.device | str", *, non_blocking: bool = False) -> "Batch":
        """Return the batch with image, mask and validity on another device; ``index`` stays on the CPU.

        ``non_blocking`` is that of :meth:`torch.Tensor.to`; a loader made with ``device="cuda"`` needs none of this.
        Raises ``UsageError`` for a dtype or a tensor, which would also convert the mask's classes and ``valid``.
        """
        import torch

        if isinstance(device, torch.dtype | torch.Tensor):
            raise UsageError(
                f"Batch.to() takes a device, such as 'cuda', not {shown_value(device)}; convert what the network "
                "takes: batch.image.float()"
            )
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("image", "mask", "valid")}
        return replace(self, **moved)

    def __iter__(self) -> NoReturn:
        raise BatchFieldsError

    def __getitem__(self, key: object) -> NoReturn:
        raise BatchFieldsError

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        image, mask = (f"{str(each.dtype)[6:]} {tuple(each.shape)}" for each in (self.image, self.mask))
        valid = "?" if self.valid.is_meta else int(self.valid.sum())
        facts = f"image {image}, mask {mask}, {valid} of {len(self)} valid, {self.image.device}"
        return f"<Batch {self.number} of epoch {self.epoch}: {facts}>"
