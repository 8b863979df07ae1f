"""MovieLens through TensorFlow Datasets, in slices of 30 days.

`--raw_dir` is a folder that holds the archive `ml-latest-small.zip`; without the flag TFDS downloads it.
`--set=source.config=20m-ratings` selects another data set. Give its days too, within 1997-09-20 to 1998-04-22 (100k),
2000-04-25 to 2003-02-28 (1m), 1995-01-09 to 2015-03-31 (20m) or 2019-11-21 (25m).
`--set=schema.slice_days=1` makes slices of one day.
"""

from datetime import date

from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment
from tutelage.models.backbones.dcn import DCNv2
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.movielens import MovieLens
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig

SCHEMA = Schema(
    features=(
        Feature(name="user_id", dtype="string", capacity=2_048, scope="user"),
        Feature(name="movie_id", dtype="string", capacity=20_000),
        Feature(name="genres", dtype="string", capacity=2_048),
        Feature(name="year", dtype="int64", capacity=256),
    ),
    tasks=(
        Task(name="click", label="click"),
        Task(name="rating", label="rating", kind="log1p", unit="stars"),
    ),
    key=("user_id", "movie_id", "event_time_us"),
    user="user_id",
    slice_days=30,
)

TASKS = [task.name for task in SCHEMA.tasks]
TEACHER = ModelConfig(embedding_dim=32, backbone=DCNv2(hidden=(128, 64), cross_layers=2))
STUDENT = ModelConfig(embedding_dim=8, backbone=MLP(hidden=(32, 16)))


def experiment(*, smoke: bool) -> Experiment:
    """Return 2016-01 to 2018-09; smoke: the first half of 2016."""
    late = date(2016, 3, 1) if smoke else date(2017, 5, 1)

    def student(name: str, **fields: object) -> StudentConfig:
        return StudentConfig(name=name, model=STUDENT, **fields)  # type: ignore[arg-type]

    return Experiment(
        name="movielens",
        source=MovieLens(),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=32),
        teacher=TeacherConfig(model=TEACHER, min_examples=500),
        students=(
            student("control"),
            student("direct", distillation=distil(*TASKS, through="direct"), baseline="control"),
            student("auxiliary", distillation=distil(*TASKS), baseline="control"),
            student("late_control", first_day=late),
            student(
                "late_auxiliary",
                distillation=distil(*TASKS, alpha=10.0),
                first_day=late,
                baseline="late_control",
            ),
        ),
        serving=ServingConfig(score=(("click", 1.0), ("rating_log1p", 0.5))),
        start_day="2016-01-01",
        end_day="2016-06-30" if smoke else "2018-09-24",
    )
