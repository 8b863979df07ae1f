"""An experiment with a bad fifth day: one column is all null, and there are ten times as many clicks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import polars as pl

from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.base import Unit
from tutelage.trainers.config import GateConfig, StudentConfig, TeacherConfig, TrainingConfig

ROWS = 1000
SCHEMA = Schema(
    features=(
        Feature(name="user_id", dtype="int64", capacity=100, scope="user"),
        Feature(name="country", dtype="string", capacity=16, scope="user"),
        Feature(name="age", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user_id", "event_time_us"),
)


@dataclass(frozen=True)
class Drifting:
    bad_day: date

    def columns(self) -> Mapping[str, pl.DataType]:
        return {"user_id": pl.Int64(), "country": pl.String(), "age": pl.Float32(), "click": pl.Int8()}

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        return [Unit(index=i, where=str(day), args={"day": day}) for i, day in enumerate(days)]

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        day = unit.args["day"]
        rng = np.random.default_rng(day.toordinal())
        bad = day == self.bad_day
        midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
        frame = pl.DataFrame(
            {
                "event_time_us": midnight + np.arange(ROWS) * 60_000_000,
                "user_id": rng.integers(0, 80, ROWS),
                "country": [None] * ROWS if bad else rng.choice(["DE", "FR", "JP"], ROWS),
                "age": rng.normal(40, 10, ROWS),
                "click": rng.random(ROWS) < (0.5 if bad else 0.05),
            },
            schema={"event_time_us": pl.Int64(), **self.columns()},
        )
        yield frame.with_columns(content=frame.hash_rows(), dropped=pl.lit(None, pl.String))


def experiment(*, smoke: bool) -> Experiment:
    model = ModelConfig(embedding_dim=4, backbone=MLP(hidden=(8, 4)))
    # How good such a model is on such days is luck, so its metrics need only be finite.
    gate = GateConfig(min_days=7)
    return Experiment(
        name="drifting",
        source=Drifting(bad_day=date(2026, 1, 5)),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=100),
        teacher=TeacherConfig(model=model, gate=gate),
        students=(StudentConfig(name="student", model=model, distillation=distil("click"), gate=gate),),
        serving=ServingConfig(
            score=(("click", 1.0),),
            auc_drop=1.0,
            entropy_rise=100.0,
            calibration_drift=100.0,
            max_latency_ms=1e6,
        ),
        start_day="2026-01-01",
        end_day="2026-01-07",
    )
