"""A source of your own, for logs whose lines read `1767225605 user=17 item=3 click`; the last word may be missing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment
from tutelage.models import MLP, ModelConfig, distil
from tutelage.pipeline import Feature, RawFile, Schema, Task, Unit, UserError
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig

USER, ITEM = (Feature(name=name, dtype="int64", capacity=1_000) for name in ("user", "item"))
CLICK = Task(name="click", label="click")
SCHEMA = Schema(features=(USER, ITEM), tasks=(CLICK,), key=("user", "event_time_us"))


@dataclass(frozen=True, slots=True)
class ClickLogs:
    def columns(self) -> dict[str, pl.DataType]:
        return {"user": pl.Int64(), "item": pl.Int64(), "click": pl.Int8()}

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        if not (files := [RawFile.of(path) for path in sorted(Path(raw_dir).glob("*.log"))]):
            raise UserError(f"--raw_dir={raw_dir} holds no *.log files; give the folder of the logs")
        return [Unit(index=i, where=f.path, args={"path": f.path}, files=(f,)) for i, f in enumerate(files)]

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        line, lines = pl.col("line"), Path(unit.args["path"]).read_text().splitlines()
        number = line.str.extract_groups(r"^(?<at>\d+) user=(?<user>\d+) item=(?<item>\d+)( click)?$")
        at, user, item = (number.struct.field(name).cast(pl.Int64) for name in ("at", "user", "item"))
        click = line.str.ends_with(" click").cast(pl.Int8)
        columns = {"event_time_us": at * 1_000_000, "user": user, "item": item, "click": click}
        dropped = pl.when(at.is_null()).then(pl.lit("unreadable"))
        yield pl.DataFrame({"line": lines}).select(**columns, content=line.hash(), dropped=dropped)


def experiment(*, smoke: bool) -> Experiment:
    model = ModelConfig(embedding_dim=8, backbone=MLP(hidden=(32, 16)))
    student = StudentConfig(name="student", model=model, distillation=distil("click"))
    return Experiment(
        name="own_source", source=ClickLogs(), schema=SCHEMA, training=TrainingConfig(batch_size=256),
        teacher=TeacherConfig(model=model), students=(student,), serving=ServingConfig(score=(("click", 1.0),)),
        start_day="2026-01-01", end_day="2026-01-02" if smoke else "yesterday",
    )  # fmt: skip
