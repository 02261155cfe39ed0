"""``python -m petseg``: petseg-train where the command is not on the path, also under torchrun.

torchrun --nproc-per-node 4 -m -- petseg --shards pets-shards --run runs/pets

Without the ``--``, torchrun takes ``--run`` for an abbreviation of its option ``--run-path``.
"""

from petseg.cli import train

if __name__ == "__main__":
    train()
