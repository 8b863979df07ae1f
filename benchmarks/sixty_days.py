"""A config of sixty days in a world that replaces 5 % of its users and videos each day, and the figures of its run.

The vocabularies grow, with capacity for the ids of a few days but not for all that ever come. As a command, with the
workdir of the run, it prints a column for each ten days. First comes the daily mean of AUC and log loss of clicks, for
scores made before the model was trained on any of the day, and for the probabilities that the clicks were drawn from
(`truth`). Then follow, for the last of the ten days, the memory of each model's process, the size of its checkpoint,
and the capacity in use; and for all ten days the ids that were admitted and evicted.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
from absl import app

from tutelage.export.config import ServingConfig
from tutelage.launch.configs.synthetic import SCHEMA, STUDENT, TASKS, TEACHER
from tutelage.launch.experiment import Experiment
from tutelage.launch.session import Session
from tutelage.models.config import distil
from tutelage.models.metrics import auc, log_loss
from tutelage.pipeline.quality import QualityConfig
from tutelage.pipeline.schema import Growth
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig

_FIRST = date(2026, 1, 1)
_ROWS = {"user_id": 5_000, "video_id": 2_500}
_GROWTH = Growth(min_seen=2, unseen_days=5)


def experiment(*, smoke: bool) -> Experiment:
    """Return sixty days of 60,000 exposures, with 4,000 users and 2,000 videos a day; smoke: six days of 3,000."""
    grown = tuple(
        replace(feature, capacity=_ROWS[feature.name], grows=_GROWTH) if feature.name in _ROWS else feature
        for feature in SCHEMA.features
    )
    return Experiment(
        name="sixty_days",
        source=Synthetic(
            seed=1,
            first_day=_FIRST,
            rows_per_day=3_000 if smoke else 60_000,
            users=4_000,
            videos=2_000,
            new_users_per_day=1,
            new_videos_per_day=1,
            new_ids=0.05,
        ),
        schema=replace(SCHEMA, features=grown),
        training=TrainingConfig(batch_size=512),
        teacher=TeacherConfig(model=TEACHER, min_examples=2_000 if smoke else 60_000),
        students=(
            StudentConfig(name="control", model=STUDENT),
            StudentConfig(name="auxiliary", model=STUDENT, distillation=distil(*TASKS), baseline="control"),
        ),
        serving=ServingConfig(score=(("click", 1.0), ("long_view", 1.0), ("watch_log1p", 0.1))),
        # The few new videos that everybody is shown decide which lengths and authors are frequent. On day 21 the last
        # of the first users is gone.
        quality=QualityConfig(id_drift=0.6, number_drift=2.0),
        start_day=str(_FIRST),
        end_day=str(_FIRST + timedelta(days=(6 if smoke else 60) - 1)),
    )


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("expected the workdir of the run, and nothing else")
    session = Session.open(config=__file__, workdir=argv[1])
    metrics = session.run.lake.metrics.scan().collect().sort("day")
    days = metrics["day"].unique().sort().to_list()
    truth = [_truth(session, day) for day in days]
    _print("to day", [(day - _FIRST).days + 1 for day in days], _last, "d")
    for i, metric in enumerate(("auc", "log_loss")):
        _print(f"truth, {metric}", [found[i] for found in truth], statistics.fmean, ".4f")
        for model in session.models:
            of = metrics.filter(model=model, task="click", metric=metric, slice="", basis="day_ahead")
            _print(f"{model}, {metric}", of["value"].to_list(), statistics.fmean, ".4f")
    for model in session.models:
        states = session.run.checkpoints(model).states()
        _print(f"{model}, memory, MB", [state.memory / 1e6 for state in states], _last, ",.0f")
        _print(f"{model}, checkpoint, MB", [state.size / 1e6 for state in states], _last, ",.2f")
    for name, rows in _ROWS.items():
        counted = metrics.filter(model=session.run.teacher_model, slice=name)
        for metric, of_ten in (("ids_with_rows", _last), ("ids_given", sum), ("ids_evicted", sum)):
            values = counted.filter(metric=metric)["value"].to_list()
            _print(f"{name} ({rows - 1:,} rows), {metric}", values, of_ten, ",.0f")


def _truth(session: Session, day: date) -> tuple[float, float]:
    """Return the AUC and the log loss of the probabilities that a day's clicks were drawn from."""
    frame = session.run.lake.interactions.scan(day=day).collect()
    source = session.experiment.source
    assert isinstance(source, Synthetic)
    chance = source.truth(frame)["click"].to_numpy()
    clicks, logit = frame["click"].to_numpy(), np.log(chance / (1 - chance))
    return auc(clicks, logit), log_loss(clicks, logit)


def _last(values: Sequence[float]) -> float:
    return values[-1]


def _print(name: str, values: Sequence[float], of_ten: Callable[[Sequence[float]], float], form: str) -> None:
    """Print one line with a cell for each ten days."""
    cells = [of_ten(values[i : i + 10]) for i in range(0, len(values), 10)]
    print(f"{name:40}", *(f"{cell:>8{form}}" for cell in cells))


if __name__ == "__main__":
    app.run(main)
