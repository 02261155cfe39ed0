"""``python -m petseg``: petseg-train as a module, which is how torchrun starts it."""

from petseg.cli import train

if __name__ == "__main__":
    train()
