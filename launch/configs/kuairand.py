"""KuaiRand-Pure: exposures of short videos. `--raw_dir` is the archive's folder, which contains `data/`."""

from datetime import date

from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment, StudyConfig
from tutelage.models.backbones.dcn import DCNv2
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.kuairand import KuaiRand
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig


def _id(name: str, capacity: int, **fields: object) -> Feature:
    return Feature(name=name, dtype="int64", capacity=capacity, **fields)  # type: ignore[arg-type]


def _text(name: str, capacity: int, **fields: object) -> Feature:
    return Feature(name=name, dtype="string", capacity=capacity, **fields)  # type: ignore[arg-type]


SCHEMA = Schema(
    features=(
        _id("user_id", 40_000, scope="user"),
        _id("video_id", 12_000),
        _id("author_id", 10_000),
        _id("music_id", 10_000),
        _text("tag", 1_000),
        _id("tab", 64, scope="user"),
        _text("user_active_degree", 64, scope="user"),
        _text("follow_user_num_range", 64, scope="user"),
        _text("register_days_range", 64, scope="user"),
        # Anonymous attributes of the user; 3 and 8 have hundreds of values each, the others at most 118.
        *(
            _id(f"onehot_feat{i}", 2_048 if i in (3, 8) else 256, scope="user")
            for i in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)
        ),
        Feature(name="video_seconds", dtype="float32", log1p=True),
    ),
    tasks=(
        Task(name="click", label="click"),
        Task(name="long_view", label="long_view"),
        Task(name="watch", label="watch_seconds", kind="log1p", unit="seconds"),
    ),
    key=("user_id", "video_id", "event_time_us"),
    user="user_id",
    time_zone="Asia/Shanghai",
)

TASKS = [task.name for task in SCHEMA.tasks]
TEACHER = ModelConfig(
    embedding_dim=32, backbone=DCNv2(hidden=(256, 128), cross_layers=2), embedding_rate=0.05, dense_rate=2e-4
)
STUDENT = ModelConfig(embedding_dim=8, backbone=MLP(hidden=(64, 32)), embedding_rate=0.2, dense_rate=2e-3)
LATE = date(2022, 4, 30)


def experiment(*, smoke: bool) -> Experiment:
    """Return ten days from 2022-04-25; smoke: the first three, with late students from the second day on."""
    late = date(2022, 4, 26) if smoke else LATE

    def student(name: str, **fields: object) -> StudentConfig:
        return StudentConfig(name=name, model=STUDENT, **fields)  # type: ignore[arg-type]

    return Experiment(
        name="kuairand",
        source=KuaiRand(),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=256),
        teacher=TeacherConfig(model=TEACHER, min_examples=10_000),
        students=(
            student("control"),
            student("direct", distillation=distil(*TASKS, through="direct", alpha=4.0), baseline="control"),
            student("auxiliary", distillation=distil(*TASKS, alpha=4.0), baseline="control"),
            student("late_control", first_day=late),
            *(
                student(
                    f"late_{through}",
                    distillation=(
                        *distil("click", "long_view", through=through, alpha=10.0),
                        *distil("watch", through=through, alpha=4.0),
                    ),
                    first_day=late,
                    baseline="late_control",
                )
                for through in ("direct", "auxiliary")
            ),
        ),
        serving=ServingConfig(score=(("click", 1.0), ("long_view", 1.0), ("watch_log1p", 0.1))),
        slice_by=("tab",),
        study=StudyConfig(
            full="auxiliary", late="late_auxiliary", biased_task="click", domain="tab=1", item="video_id"
        ),
        start_day="2022-04-25",
        end_day="2022-04-27" if smoke else "2022-05-04",
    )
