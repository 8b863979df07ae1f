"""Event logs of a few rows, with a history, and a student of each kind."""

from datetime import date

from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.schema import Feature, History, Schema, Task
from tutelage.pipeline.sources.files import Files
from tutelage.trainers.config import GateConfig, StudentConfig, TeacherConfig, TrainingConfig

SCHEMA = Schema(
    features=(
        Feature(name="user_id", dtype="int64", capacity=20, scope="user"),
        Feature(name="item", dtype="int64", capacity=20),
        Feature(name="seconds", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user_id", "item", "event_time_us"),
    user="user_id",
    histories=(History(name="seen", of="item", days=2, length=3),),
)
MODEL = ModelConfig(embedding_dim=2, backbone=MLP(hidden=(4,)))
# A few rows show nothing of a model.
UNGATED = GateConfig(min_days=7)


def experiment(*, smoke: bool) -> Experiment:
    return Experiment(
        name="small",
        source=Files(pattern="*.parquet", schema=SCHEMA, event_time="at"),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=16),
        teacher=TeacherConfig(model=MODEL, gate=UNGATED),
        students=(
            StudentConfig(name="control", model=MODEL, gate=UNGATED),
            StudentConfig(name="auxiliary", model=MODEL, distillation=distil("click"), gate=UNGATED),
            StudentConfig(name="late", model=MODEL, first_day=date(2026, 1, 4), gate=UNGATED),
        ),
        serving=ServingConfig(
            score=(("click", 1.0),),
            max_latency_ms=1e6,
            auc_drop=1,
            entropy_rise=1e6,
            calibration_drift=1e6,
        ),
        start_day="2026-01-01",
        end_day="2026-01-05",
    )
