"""The labels that are known by name: those of well-known datasets."""

from typing import Final

from shards.format.labels import UNTINTED, LabelClass, Labels

PETS: Final = Labels(
    classes=(
        LabelClass(name="animal", values=(1,), color="#cc50a0"),
        LabelClass(name="background", values=(2,), color=UNTINTED),
        LabelClass(name="border", values=(3,), color="#009eff"),
    ),
    foreground=("animal",),
    boundary=("border",),
)

BINARY: Final = Labels(
    classes=(
        LabelClass(name="background", values=(0,), color=UNTINTED),
        LabelClass(name="foreground", values=(255, 1), color="#cc50a0"),
    ),
    foreground=("foreground",),
)

BUILTIN: Final = {"pets": PETS, "binary": BINARY}
