"""The breeds of the synthetic dataset: colours, coat pattern, ears, proportions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Colour: TypeAlias = tuple[float, float, float]  # red, green, blue, 0..255


@dataclass(frozen=True, kw_only=True)
class Breed:
    """What the animals of one breed have in common; cats' names begin with a capital, as in the official dataset."""

    name: str
    coat: Colour  # most of the fur
    light: Colour  # chest and paws
    mark: Colour  # the pattern
    second_mark: Colour | None = None  # every other patch
    pattern: Literal["solid", "tabby", "spots", "patches", "points", "saddle", "brindle"] = "solid"
    muzzle: Literal["coat", "light", "mark"] = "light"
    ears: Literal["pointed", "folded", "floppy", "long"] = "pointed"
    eyes: Colour = (92, 60, 34)
    nose: Colour = (46, 38, 38)
    fluff: float = 0.3  # how uneven the outline is, 0 (short hair) .. 1
    legs: float = 1.0  # their length
    girth: float = 1.0  # width of the body

    @property
    def is_cat(self) -> bool:
        """Whether it is a cat (else a dog)."""
        return self.name[0].isupper()


def shaded(colour: Colour, factor: float) -> Colour:
    """Return the colour, darker (factor below 1) or lighter."""
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


_PINK: Colour = (206, 128, 122)

# In the order of their class ids, which is alphabetical without regard to case, as in the official dataset.
BREEDS: tuple[Breed, ...] = (
    Breed(name="Blue_Shorthair", coat=(116, 124, 138), light=(150, 158, 170), mark=(84, 90, 104),
          muzzle="coat", eyes=(222, 146, 44), girth=1.12),
    Breed(name="brindle_boxer", coat=(168, 112, 66), light=(238, 230, 216), mark=(66, 42, 28),
          pattern="brindle", muzzle="mark", ears="folded", fluff=0.1, girth=1.1),
    Breed(name="Calico", coat=(240, 233, 220), light=(246, 242, 234), mark=(210, 124, 52),
          second_mark=(50, 44, 42), pattern="patches", eyes=(168, 176, 70), nose=_PINK),
    Breed(name="chocolate_hound", coat=(104, 64, 42), light=(132, 88, 60), mark=(78, 46, 30),
          muzzle="coat", ears="long", fluff=0.12, legs=0.85),
    Breed(name="coach_spotted", coat=(240, 238, 234), light=(246, 244, 240), mark=(38, 36, 36),
          pattern="spots", ears="floppy", fluff=0.08, legs=1.12),
    Breed(name="Cream_Point", coat=(228, 210, 182), light=(238, 224, 200), mark=(86, 64, 52),
          pattern="points", muzzle="mark", eyes=(92, 156, 214), girth=0.9),
    Breed(name="Ginger_Tabby", coat=(218, 144, 74), light=(246, 226, 198), mark=(164, 86, 34),
          pattern="tabby", eyes=(178, 170, 66), nose=_PINK),
    Breed(name="golden_floppy", coat=(216, 168, 102), light=(240, 214, 166), mark=(176, 124, 66),
          ears="floppy", fluff=0.8),
    Breed(name="Grey_Tabby", coat=(152, 146, 138), light=(224, 220, 212), mark=(76, 72, 68),
          pattern="tabby", eyes=(132, 168, 82), nose=(176, 112, 104), fluff=0.5),
    Breed(name="Leopard_Spot", coat=(208, 162, 104), light=(238, 216, 178), mark=(72, 44, 28),
          pattern="spots", eyes=(142, 180, 96), nose=(160, 92, 80), fluff=0.15, girth=0.95),
    Breed(name="pied_terrier", coat=(238, 234, 226), light=(244, 240, 234), mark=(126, 80, 46),
          pattern="patches", ears="folded", fluff=0.35, legs=0.85, girth=0.95),
    Breed(name="tan_shepherd", coat=(194, 146, 90), light=(222, 186, 136), mark=(46, 40, 36),
          pattern="saddle", muzzle="mark", ears="pointed", fluff=0.55, legs=1.05),
    Breed(name="Tuxedo", coat=(40, 40, 45), light=(240, 239, 236), mark=(28, 28, 32),
          eyes=(206, 190, 70), nose=(70, 54, 56)),
    Breed(name="white_fluffy", coat=(238, 234, 226), light=(246, 243, 238), mark=(220, 212, 198),
          ears="floppy", fluff=1.0, legs=0.8, girth=1.12),
)  # fmt: skip
