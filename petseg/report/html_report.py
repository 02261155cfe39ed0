"""``report.html``: one self-contained page about a run; no script, no other file, no network."""

import json
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from petseg.inference.class_colours import COLOURS, Rgb
from petseg.inference.evaluation import Evaluation
from petseg.inference.metrics import score
from petseg.inference.trained_network import Predictor
from petseg.nets.factory import count_parameters
from petseg.report.console_reporter import duration
from petseg.report.curves import draw_curves
from petseg.report.gallery import predict_sample
from petseg.report.thumbnails import BORDER_ONLY, INVENTED, MISSED, panels
from petseg.runs.history import History, judged_part
from petseg.runs.run_folder import read_config
from shards import SplitReader
from shards.format.layout import CLASSES


def render_report(
    run: Path, *, history: History, predictor: Predictor, split: SplitReader, evaluation: Evaluation, seconds: float
) -> str:
    """Return the page as HTML, about the best weights (``predictor``) and their evaluation at the network's size.

    ``split`` is ``val``, or ``train`` where the set has none; ``seconds`` is the wall time of the whole run.
    """
    config = read_config(run)
    matrix = evaluation.matrix
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    chosen = [(rank, value, predict_sample(predictor, split, i)) for rank, i, value in choose_images(evaluation)]
    return _template().render(
        name=run.name,
        config=config,
        configuration=json.dumps({name: config[name] for name in ("recipe", "running", "data")}, indent=2),
        history=history,
        best=max(history, key=lambda entry: bool(entry["best"]) * entry["epoch"]),
        part=judged_part(history)[0],
        nothing={"loss": None, "mean_iou": None, "iou": [None] * len(CLASSES)},
        parameters=count_parameters(predictor.model),
        seconds=seconds,
        split=split.name,
        images=evaluation.samples,
        scores=evaluation.scores,
        curves=draw_curves(history, kind="svg").decode(),
        classes=list(zip(CLASSES, COLOURS, strict=True)),
        confusion=[
            [
                (share, count, _shade(share, correct=row == column))
                for column, (share, count) in enumerate(zip(shares[row], matrix[row], strict=True))
            ]
            for row in range(len(CLASSES))
        ],
        differences=[
            ("animal predicted as background", MISSED),
            ("background predicted as animal", INVENTED),
            ("differences at the border", BORDER_ONLY),
        ],
        samples=[(rank, value, sample.key, panels(sample)) for rank, value, sample in chosen],
        rates=sorted(entry["pictures_per_second"] for entry in history),
        waits=[entry["wait_share"] for entry in history],
    )


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("petseg", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=lambda value: "-" if value is None else f"{value:.3f}",
        percent=lambda share: f"{share:.1%}",
        duration=duration,
    )
    return environment.get_template("report.html.jinja")


def _shade(share: float, *, correct: bool) -> Rgb:
    """Return the colour of a cell of the confusion matrix: towards blue if correct, towards orange if not."""
    full = (120, 180, 230) if correct else (240, 160, 110)
    red, green, blue = (round(255 + share * (value - 255)) for value in full)
    return red, green, blue


def choose_images(evaluation: Evaluation, *, each: int = 2) -> list[tuple[str, int, float]]:
    """Return (rank, index, mean IoU) of the best, the median and the worst images, without repeats."""
    values = [score(matrix).mean_iou for matrix in evaluation.matrices]
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    middle = max(0, len(order) // 2 - each // 2)
    groups = {"best": order[:each], "median": order[middle : middle + each], "worst": order[-each:]}
    ranks: dict[int, str] = {}
    for rank, indices in groups.items():
        for index in indices:
            ranks.setdefault(index, rank)
    return [(rank, index, values[index]) for index, rank in ranks.items()]
