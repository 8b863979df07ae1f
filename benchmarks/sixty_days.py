"""Sixty days of a world in which 5 % of the users and of the videos are others each day: a config, and what it shows.

Ids grow, with rows for those of a few days and not for all that come. As a command, with the workdir of the run, it
prints, a column for each ten days: AUC and log loss of clicks, the mean of the days, of scores made before any of the
day was learnt, and of the probabilities that the clicks were drawn from (`truth`); on the last of them, the memory
of each model's process, its checkpoint, and the rows in use; the ids that rows were given to and taken from.
"""

import statistics
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
from absl import app

from tutelage.export.config import ServingConfig
from tutelage.launch.config import Experiment
from tutelage.launch.configs.synthetic import SCHEMA, STUDENT, TASKS, TEACHER
from tutelage.launch.session import Session, Settings
from tutelage.models.config import distil
from tutelage.pipeline.quality import QualityConfig
from tutelage.pipeline.schema import Growth
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig
from tutelage.trainers.metrics import auc, cross_entropy

_FIRST = date(2026, 1, 1)
_ROWS = {"user_id": 5_000, "video_id": 2_500}
_GROWTH = Growth(min_seen=2, unseen_days=5)


def experiment(*, smoke: bool) -> Experiment:
    """Sixty days of 60,000 exposures, of 4,000 users and 2,000 videos a day; smoke: six of 3,000."""
    grown = tuple(
        replace(feature, rows=_ROWS[feature.name], grows=_GROWTH) if feature.name in _ROWS else feature
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
        # New videos are shown most, and few: a day's lengths are those of the few that all watch.
        quality=QualityConfig(id_drift=0.6, number_drift=2.0),
        start_day=str(_FIRST),
        end_day=str(_FIRST + timedelta(days=(6 if smoke else 60) - 1)),
    )


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("expected the workdir of the run, and nothing else")
    session = Session.open(Settings(config=__file__, workdir=argv[1]))
    metrics = session.run.lake.metrics.scan(run=session.run.name).collect()
    days = metrics["day"].unique().sort().to_list()
    print(f"{'to day':30}", *(f"{day + 1:>8}" for day in _last(range(len(days)))))
    truth = [_truth(session, day) for day in days]
    for i, metric in enumerate(("auc", "log_loss")):
        _print(f"truth {metric}", _means([found[i] for found in truth]), ".4f")
        for model in session.models:
            values = metrics.filter(model=model, task="click", metric=metric, slice="", basis="day_ahead")
            _print(f"{model} {metric}", _means(values.sort("day")["value"]), ".4f")
    for model in session.models:
        states = session.run.checkpoints(model).states()
        _print(f"{model} memory, MB", [state.memory / 1e6 for state in _last(states)], ",.0f")
        _print(f"{model} checkpoint, MB", [state.size / 1e6 for state in _last(states)], ",.2f")
    for feature in _ROWS:
        counted = metrics.filter(model=session.run.teacher_model, slice=feature).sort("day")
        counts = {
            str(metric): rows["value"].to_list()
            for (metric,), rows in counted.partition_by("metric", as_dict=True).items()
        }
        _print(f"{feature} in use", _last(counts["ids_with_rows"]), ",.0f")
        for metric in ("ids_given", "ids_evicted", "ids_full"):
            _print(f"{feature} {metric}", [10 * mean for mean in _means(counts[metric])], ",.0f")


def _truth(session: Session, day: date) -> tuple[float, float]:
    """AUC and log loss of the probabilities that a day's clicks were drawn from."""
    frame = session.run.lake.interactions.scan(day=day).collect()
    chance = session.experiment.source.truth(frame)["click"].to_numpy()
    clicks = frame["click"].to_numpy()
    logit = np.log(chance / (1 - chance))
    return auc(clicks, logit), float(np.mean(cross_entropy(clicks, logit)))


def _last(values: Iterable[float]) -> list[float]:
    """The last of each ten."""
    return list(values)[9::10]


def _means(values: Iterable[float]) -> list[float]:
    found = list(values)
    return [statistics.fmean(found[i : i + 10]) for i in range(0, len(found) - 9, 10)]


def _print(name: str, values: Iterable[float], form: str) -> None:
    print(f"{name:30}", *(f"{value:>8{form}}" for value in values))


if __name__ == "__main__":
    app.run(main)
