"""The small config some days later: two features and a history more, and a student that takes them."""

import dataclasses

from tests.launch import small_config as small
from tutelage.launch.config import Experiment
from tutelage.pipeline.schema import Feature, History
from tutelage.pipeline.sources.files import Files
from tutelage.trainers.config import StudentConfig

NEW = ("age", "tags", "clicked")
SCHEMA = dataclasses.replace(
    small.SCHEMA,
    features=(
        Feature(name="age", dtype="float32"),
        *small.SCHEMA.features,
        Feature(name="tags", dtype="string", rows=10, length=2),
    ),
    histories=(*small.SCHEMA.histories, History(name="clicked", of="item", where="click", days=1, length=2)),
)


def experiment(*, smoke: bool) -> Experiment:
    base = small.experiment(smoke=smoke)
    model = dataclasses.replace(small.MODEL, without=NEW)
    return dataclasses.replace(
        base,
        source=Files(pattern="*.parquet", schema=SCHEMA, event_time="at", renamed=(("tags", "labels"),)),
        schema=SCHEMA,
        teacher=dataclasses.replace(base.teacher, model=model),
        students=(
            *(dataclasses.replace(student, model=model) for student in base.students),
            StudentConfig(name="keen", model=small.MODEL, gate=small.UNGATED),
        ),
    )
