"""The experiment of the fault tests, for `--config`: five days and three students; a step takes seconds."""

from datetime import date, timedelta

from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.quality import QualityConfig
from tutelage.pipeline.schema import Feature, History, Schema, Task
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.trainers.config import GateConfig, StudentConfig, TeacherConfig, TrainingConfig

FIRST_DAY = date(2026, 1, 1)
# Small days are noisy. Losses that are not finite fail all the same.
WIDE = GateConfig(
    auc_drop=1, entropy_rise=9, squared_error_rise=9, calibration_drift=9, logit_shift=9, logit_spread=99
)


def experiment(*, smoke: bool) -> Experiment:
    features = (
        Feature(name="user_id", dtype="int64", capacity=128, scope="user"),
        Feature(name="video_id", dtype="int64", capacity=128),
        Feature(name="topic", dtype="string", capacity=32),
        Feature(name="video_seconds", dtype="float32", log1p=True),
    )
    clicked = History(name="clicked", of="video_id", where="click", length=5, days=2)
    model = ModelConfig(embedding_dim=4, backbone=MLP(hidden=(8,)), without=("clicked",))

    def student(name: str, **fields: object) -> StudentConfig:
        return StudentConfig(name=name, model=model, gate=WIDE, **fields)  # type: ignore[arg-type]

    return Experiment(
        name="five_days",
        source=Synthetic(
            seed=1,
            first_day=FIRST_DAY,
            rows_per_day=600,
            users=60,
            videos=60,
            new_users_per_day=2,
            new_videos_per_day=2,
        ),
        schema=Schema(
            features=features,
            tasks=(
                Task(name="click", label="click"),
                Task(name="watch", label="watch_seconds", kind="log1p"),
            ),
            key=("user_id", "video_id", "event_time_us"),
            user="user_id",
            histories=(clicked,),
        ),
        # A day has four updates, with a partial checkpoint after each.
        training=TrainingConfig(batch_size=150, checkpoint_minutes=1e-6),
        teacher=TeacherConfig(model=ModelConfig(embedding_dim=4, backbone=MLP(hidden=(16, 8))), gate=WIDE),
        students=(
            student("control"),
            student("auxiliary", distillation=distil("click", "watch")),
            student("snapshot", distillation=distil("click", "watch"), producer="snapshot"),
        ),
        serving=ServingConfig(
            score=(("click", 1.0),),
            auc_drop=1,
            entropy_rise=9,
            squared_error_rise=9,
            calibration_drift=9,
            max_latency_ms=9_999,
        ),
        # No day is compared with the days before it, because so few rows drift far by chance.
        quality=QualityConfig(min_days=6),
        rows_per_shard=250,  # Three shards a day.
        start_day=str(FIRST_DAY),
        end_day=str(FIRST_DAY + timedelta(days=4)),
    )
