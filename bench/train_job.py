"""What a process that trains is asked to do: plain values, handed as JSON."""

from __future__ import annotations

import msgspec


class TrainJob(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``petseg-bench train``.

    Attributes:
        model: ``unet`` or ``tutorial``, with its own recipe.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        device: ``auto``, ``cpu`` or ``cuda``.
        size: side of the pictures; 0: the recipe's.
        batch_size: pictures a step; 0: the recipe's.
        shards: the shard set.
        split: of it.
        engine: of the loader.
        seed: of weights, order and augmentation.
    """

    model: str
    precision: str
    device: str
    size: int
    batch_size: int
    shards: str
    split: str
    engine: str
    seed: int
