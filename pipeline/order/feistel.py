"""A permutation of any number of samples in constant memory, evaluated at the positions that are asked for.

A position is divided into two digits (L, R) of the mixed base (a, b), with a and b next to the square root of n. Each
round adds a hash of one digit to the other, modulo a or b, which can be undone, so that the rounds permute the a * b
numbers: a Feistel network over Z_a x Z_b. Where the result is n or more, the rounds are applied again until it is not
("cycle walking"), which permutes 0..n-1; a * b exceeds n by less than a, so this is rare.

Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002: method 2 (cycle walking) and method 3 (the
generalised Feistel network). They prove three rounds for few positions; the format-preserving ciphers of NIST SP
800-38G, which must withstand an attacker who knows most of them, have eight (FF3-1) and ten (FF1). The hash of a round
is SplitMix64's finaliser, which is no cipher: this is a shuffle, not a secret.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.order.hashing import UInt64s, derive, hash_counters

ROUNDS: Final = 8  # part of the promise "same seed, same order", as everything here
MOST: Final = 1 << 62  # of n: no intermediate value exceeds 64 bits
_HALF: Final = np.uint64(32)


class FeistelPermutation:
    """A permutation of 0..n-1, n from 1 to 2^62, that depends on ``key``: ``permuted[positions]``."""

    def __init__(self, key: int, n: int) -> None:
        if not 1 <= n <= MOST:
            raise ValueError(f"a permutation of {n} numbers")
        self._n, base = np.uint64(n), math.isqrt(n - 1) + 1
        self._a, self._b = np.uint64(base), np.uint64(-(-n // base))
        self._keys = [derive(key, number) for number in range(ROUNDS)]

    def __len__(self) -> int:
        return int(self._n)

    def __getitem__(self, positions: Any) -> npt.NDArray[np.int64]:
        """Return the numbers at positions (integers in 0..n-1, of any shape), int64, of the same shape."""
        wanted = np.asarray(positions)
        values = self._permuted(wanted.reshape(-1).astype(np.uint64))
        outside = np.flatnonzero(values >= self._n)
        while len(outside):
            values[outside] = self._permuted(values[outside])
            outside = outside[values[outside] >= self._n]
        return values.astype(np.int64).reshape(wanted.shape)

    def _permuted(self, values: UInt64s) -> UInt64s:
        """Return the numbers (below a * b) after all rounds."""
        left = values // self._b
        right = values - left * self._b
        for first, second in zip(self._keys[::2], self._keys[1::2], strict=True):
            _add(left, first, right, self._a)
            _add(right, second, left, self._b)
        return left * self._b + right


def _add(digits: UInt64s, key: int, others: UInt64s, base: np.uint64) -> None:
    """Add a hash of the other digits, modulo ``base`` (at most 2^32): the upper half of it, scaled to the base."""
    hashes = hash_counters(key, others)
    hashes >>= _HALF
    hashes *= base
    hashes >>= _HALF
    digits += hashes
    digits -= base * (digits >= base)
