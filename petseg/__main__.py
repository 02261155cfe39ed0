"""``python -m petseg``: petseg-train as a module, for where the command is not on the path, also under torchrun.

torchrun --nproc-per-node 4 -m -- petseg --shards pets-shards --run runs/pets

The ``--`` keeps torchrun from taking ``--run`` for an abbreviation of its own ``--run-path``.
"""

from petseg.cli import train

if __name__ == "__main__":
    train()
