"""The bundled default: a simulated world that needs no download and whose true probabilities are known."""

from datetime import date, timedelta

from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment, StudyConfig
from tutelage.models.backbones.dcn import DCNv2
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig

SCHEMA = Schema(
    features=(
        Feature(name="user_id", dtype="int64", capacity=10_000, scope="user"),
        Feature(name="video_id", dtype="int64", capacity=10_000),
        Feature(name="author_id", dtype="int64", capacity=4_000),
        Feature(name="topic", dtype="string", capacity=256),
        Feature(name="country", dtype="string", capacity=64, scope="user"),
        Feature(name="position", dtype="int64", capacity=64),
        Feature(name="hour", dtype="int64", capacity=64, scope="user"),
        Feature(name="video_seconds", dtype="float32", log1p=True),
        Feature(name="video_age_days", dtype="float32", log1p=True),
        Feature(name="user_age_days", dtype="float32", log1p=True, scope="user"),
    ),
    tasks=(
        Task(name="click", label="click"),
        Task(name="long_view", label="long_view"),
        Task(name="watch", label="watch_seconds", kind="log1p", unit="seconds"),
    ),
    key=("user_id", "video_id", "event_time_us"),
    user="user_id",
)

FIRST_DAY = date(2026, 1, 1)
TASKS = [task.name for task in SCHEMA.tasks]
# The learning rates were chosen on a world with another seed.
TEACHER = ModelConfig(
    embedding_dim=32, backbone=DCNv2(hidden=(256, 128), cross_layers=2), embedding_rate=0.1, dense_rate=5e-4
)
STUDENT = ModelConfig(embedding_dim=8, backbone=MLP(hidden=(64, 32)), embedding_rate=0.1, dense_rate=2e-3)


def experiment(*, smoke: bool) -> Experiment:
    """Return eight days of 100,000 exposures; smoke: three days of 5,000."""
    days = 3 if smoke else 8
    late = FIRST_DAY + timedelta(days=days // 2)

    def student(name: str, **fields: object) -> StudentConfig:
        return StudentConfig(name=name, model=STUDENT, **fields)  # type: ignore[arg-type]

    return Experiment(
        name="synthetic",
        source=Synthetic(
            seed=1,
            first_day=FIRST_DAY,
            rows_per_day=5_000 if smoke else 100_000,
            users=500 if smoke else 2_000,
            videos=250 if smoke else 1_000,
            new_users_per_day=10 if smoke else 40,
            new_videos_per_day=10 if smoke else 60,
        ),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=512),
        teacher=TeacherConfig(model=TEACHER, min_examples=2_000 if smoke else 50_000),
        students=(
            student("control"),
            student("direct", distillation=distil(*TASKS, through="direct", alpha=4.0), baseline="control"),
            student("auxiliary", distillation=distil(*TASKS), baseline="control"),
            student("snapshot", distillation=distil(*TASKS), producer="snapshot", baseline="control"),
            student("late_control", first_day=late),
            student(
                "late_auxiliary",
                distillation=distil(*TASKS, alpha=10.0),
                first_day=late,
                baseline="late_control",
            ),
        ),
        serving=ServingConfig(score=(("click", 1.0), ("long_view", 1.0), ("watch_log1p", 0.1))),
        slice_by=("country",),
        study=StudyConfig(
            full="auxiliary", late="late_auxiliary", biased_task="click", domain="country=ID", item="video_id"
        ),
        start_day=str(FIRST_DAY),
        end_day=str(FIRST_DAY + timedelta(days=days - 1)),
    )
