"""The commands petseg-train, petseg-eval, petseg-predict and petseg-export."""

from shards.errors import quiet_interrupt

with quiet_interrupt():
    from petseg.cli.eval_command import evaluate
    from petseg.cli.export_command import export
    from petseg.cli.predict_command import predict
    from petseg.cli.train_command import train
    from petseg.host.openmp import configure_openmp

__all__ = ["evaluate", "export", "predict", "train"]

configure_openmp()  # read when torch is imported, which the commands do later
