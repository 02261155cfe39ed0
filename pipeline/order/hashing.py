"""Counter-based random numbers: a value is a pure function of its key and counter, not of how many were drawn before.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
Generators", OOPSLA 2014, variant 13 of Stafford's mixers). It is a bijection of 64-bit numbers.
"""

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: its multiples visit every 64-bit number once
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def mix(values: UInt64s) -> UInt64s:
    """Return the SplitMix64 finaliser of each number; uint64, same shape."""
    z = values ^ (values >> np.uint64(30))
    z = z * np.uint64(_MIX_1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MIX_2)
    z ^= z >> np.uint64(31)
    return z


def mix_one(value: int) -> int:
    """Return the SplitMix64 finaliser of one number: :func:`mix` without the overhead of an array."""
    z = (value ^ (value >> 30)) * _MIX_1 & _MASK
    z = (z ^ (z >> 27)) * _MIX_2 & _MASK
    return z ^ (z >> 31)


def derive(*parts: int) -> int:
    """Return a 64-bit key from integers whose order matters (seed, epoch, purpose, ...)."""
    key = 0
    for part in parts:
        key = mix_one((key + _GOLDEN + part) * _GOLDEN & _MASK)
    return key


def hash_counters(key: int | UInt64s, counters: npt.NDArray[np.integer]) -> UInt64s:
    """Return a 64-bit hash of each counter, from 0, under ``key``; different counters (modulo 2**64) never collide.

    ``key`` is from :func:`derive`; several broadcast with ``counters``, and so does the result's shape.
    """
    steps = counters.astype(np.uint64) + np.uint64(1)
    return mix(np.asarray(key, dtype=np.uint64) + steps * np.uint64(_GOLDEN))


def uniform(key: int | UInt64s, counters: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each counter: the upper 53 bits of its hash; float64, same shape."""
    return (hash_counters(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
