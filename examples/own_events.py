"""Clicks on items from event logs of one's own: change the names to yours. `--raw_dir` is their folder."""

from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment
from tutelage.models.backbones.dcn import DCNv2
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.files import Files
from tutelage.pipeline.sources.side import Side
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig

SCHEMA = Schema(
    features=(
        # About twice as many rows as there are ids.
        Feature(name="user_id", dtype="int64", capacity=20_000, scope="user"),
        Feature(name="item_id", dtype="int64", capacity=20_000),
        Feature(name="topic", dtype="string", capacity=1_000),
        Feature(name="country", dtype="string", capacity=500, scope="user"),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user_id", "item_id", "event_time_us"),
    time_zone="Europe/Berlin",
)


def experiment(*, smoke: bool) -> Experiment:
    """All days up to yesterday; smoke: the first two."""
    return Experiment(
        name="own_events",
        source=Files(
            pattern="events/*.parquet",  # or *.csv, *.jsonl, *.jsonl.gz, ...
            schema=SCHEMA,
            event_time="ts",
            time_unit="ms",
            # day_in_path="day=%Y-%m-%d",  # where the path tells a file's day: others are not opened
            renamed=(("user_id", "uid"), ("click", "clicked")),
            # expressions=(("click", "event IN ('like', 'share')"),),  # where no column is the label
            sides=(  # or none
                Side(
                    name="users",
                    pattern="users/*.csv",
                    key=(("user_id", "uid"),),
                    columns=(("country", "country"),),
                    valid_from="since",
                    time_zone="Europe/Berlin",
                ),
            ),
        ),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=256),
        teacher=TeacherConfig(
            model=ModelConfig(embedding_dim=16, backbone=DCNv2(hidden=(64, 32), cross_layers=1))
        ),
        students=(
            StudentConfig(
                name="auxiliary",
                model=ModelConfig(embedding_dim=8, backbone=MLP(hidden=(32, 16))),
                distillation=distil("click"),
            ),
        ),
        serving=ServingConfig(score=(("click", 1.0),)),
        start_day="2026-01-01",
        end_day="2026-01-02" if smoke else "yesterday",
    )
