"""The small config some days later: two features, a task and a history more, and students that take them."""

import dataclasses
from datetime import date

from tests.launch import small_config as small
from tutelage.launch.experiment import Experiment
from tutelage.models.config import distil
from tutelage.pipeline.schema import Feature, History, Task
from tutelage.pipeline.sources.files import Files
from tutelage.trainers.config import StudentConfig

NEW = ("age", "tags", "like", "clicked")
SCHEMA = dataclasses.replace(
    small.SCHEMA,
    features=(
        Feature(name="age", dtype="float32"),
        *small.SCHEMA.features,
        Feature(name="tags", dtype="string", capacity=10, length=2),
    ),
    tasks=(Task(name="like", label="liked"), *small.SCHEMA.tasks),
    histories=(*small.SCHEMA.histories, History(name="clicked", of="item", where="click", days=1, length=2)),
)


def experiment(*, smoke: bool) -> Experiment:
    base = small.experiment(smoke=smoke)
    model = dataclasses.replace(small.MODEL, without=NEW)
    return dataclasses.replace(
        base,
        source=Files(
            pattern="*.parquet",
            schema=SCHEMA,
            event_time="at",
            renamed=(("tags", "labels"), ("liked", "heart")),
        ),
        schema=SCHEMA,
        teacher=dataclasses.replace(base.teacher, model=model),
        students=(
            *(dataclasses.replace(student, model=model) for student in base.students),
            # Days without the label can teach it what is new, but for the task.
            StudentConfig(
                name="keen",
                model=dataclasses.replace(small.MODEL, without=("like",)),
                distillation=distil("click"),
                gate=small.UNGATED,
            ),
            StudentConfig(name="fan", model=small.MODEL, first_day=date(2026, 1, 3), gate=small.UNGATED),
        ),
    )
