"""The small config with a successor, and with ids that grow."""

import dataclasses

from tests.launch import beside_config as beside
from tests.launch import small_config as small
from tutelage.launch.experiment import Experiment
from tutelage.pipeline.schema import Growth
from tutelage.pipeline.sources.files import Files

GROWTH = Growth(min_seen=2, unseen_days=9)
SCHEMA = dataclasses.replace(
    small.SCHEMA,
    features=tuple(
        dataclasses.replace(feature, grows=GROWTH) if feature.capacity else feature
        for feature in small.SCHEMA.features
    ),
)
MODEL = dataclasses.replace(small.MODEL, without=("seen",))


def experiment(*, smoke: bool) -> Experiment:
    """Two students: one reads the labels of the forward passes, one those of snapshots."""
    base = beside.experiment(smoke=smoke)
    assert base.successor
    (auxiliary,) = (student for student in base.students if student.name == "auxiliary")
    auxiliary = dataclasses.replace(auxiliary, model=MODEL)
    wide = dataclasses.replace(beside.WIDE, model=dataclasses.replace(beside.WIDE.model, without=("seen",)))
    return dataclasses.replace(
        base,
        source=Files(pattern="*.parquet", schema=SCHEMA, event_time="at"),
        schema=SCHEMA,
        students=(auxiliary, dataclasses.replace(auxiliary, name="snapshot", producer="snapshot")),
        successor=dataclasses.replace(base.successor, teacher=wide),
    )
