"""A synthetic pet dataset: cats and dogs painted by code, with exact masks, offline and seeded."""

from shards.sources.synthetic.generate import SyntheticPets, make_pets

__all__ = ["SyntheticPets", "make_pets"]
