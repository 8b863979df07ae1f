"""The real commands on logs that change: late events are waited for, a day made again is trained on again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.same import assert_same

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]
BIN = Path(sys.executable).parent
DAYS = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
CONFIG = """
from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.files import Files
from tutelage.trainers.config import GateConfig, StudentConfig, TeacherConfig, TrainingConfig

GATE = GateConfig(min_days=9, trailing_days=9)
MODEL = ModelConfig(embedding_dim=4, backbone=MLP(hidden=(8, 4)))
SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=50, scope="user"),
        Feature(name="item", dtype="int64", capacity=50),
    ),
    tasks=(Task(name="click", label="click"), Task(name="buy", label="buy", matures_after="2d")),
    key=("user", "item", "event_time_us"),
    late_days=1,
)

def student(name, **fields):
    return StudentConfig(name=name, model=MODEL, gate=GATE, **fields)

def experiment(*, smoke):
    return Experiment(
        name="own",
        source=Files(
            pattern="*.jsonl", day_in_path="%Y-%m-%d", schema=SCHEMA, event_time="ts", time_unit="s",
        ),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=32),
        teacher=TeacherConfig(model=MODEL, gate=GATE),
        students=(
            student("control"),
            student("auxiliary", distillation=distil("click", "buy")),
            student("snapshot", distillation=distil("click"), producer="snapshot"),
        ),
        serving=ServingConfig(
            score=(("click", 1.0),), auc_drop=1.0, entropy_rise=9.0, calibration_drift=9.0, max_latency_ms=1e6
        ),
        start_day="2026-01-01",
        end_day="2026-01-03",
    )
"""


def _events(day: date, count: int) -> Iterable[dict[str, int]]:
    draw = random.Random(day.toordinal())
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    for second in range(count):
        row = {"user": draw.randrange(30), "item": draw.randrange(20), "ts": start + second}
        yield row | {"click": int(draw.random() < 0.4), "buy": int(draw.random() < 0.2)}


def _write(raw: Path, day: date, rows: Iterable[dict[str, int]]) -> None:
    raw.mkdir(exist_ok=True)
    with (raw / f"{day}.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _flags(root: Path) -> list[str]:
    return [f"--config={root / 'own.py'}", f"--raw_dir={root / 'raw'}", f"--workdir={root / 'work'}"]


def _run(command: str, root: Path, *flags: str) -> str:
    done = subprocess.run(
        [BIN / f"tutelage-{command}", *_flags(root), *flags], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _prepare(root: Path) -> Path:
    """Logs of three days; five events of each come with the file of the day after."""
    root.mkdir()
    (root / "own.py").write_text(CONFIG)
    for day in DAYS:
        rows = list(_events(day, 205))
        _write(root / "raw", day, rows[:200])
        _write(root / "raw", day + timedelta(days=1), rows[200:])
    return root


def test_a_day_made_anew_is_learnt_again_with_all_after_it_as_if_it_had_been_so_from_the_start(
    tmp_path: Path,
) -> None:
    one = _prepare(tmp_path / "one")
    printed = _run("run", one)
    assert "615 rows in = 615 kept (15 late) + 0 dropped" in printed
    assert "Nothing to do" in _run("run", one)
    first = (one / "work/teacher/checkpoints/2026-01-01/state.json").read_bytes()

    # Somebody finds 50 more events of the second day.
    found = [event | {"ts": event["ts"] + 3600} for event in _events(DAYS[1], 50)]
    _write(one / "raw", DAYS[1], found)
    assert "Nothing to do" in _run("run", one)  # a day is made again only on request
    _run("materialize", one, "--start_day=2026-01-02", "--end_day=2026-01-02")
    stale = (
        "teacher from 2026-01-02 on (2 days), control from 2026-01-02 on (2 days), auxiliary from 2026-01-02 on "
        "(2 days), snapshot from 2026-01-02 on (2 days), snapshot labels of 2026-01-02, snapshot labels of "
        "2026-01-03: made from other interactions of 2026-01-02"
    )
    assert f"\nStale: {stale}\n" in _run("status", one)
    with subprocess.Popen(
        [BIN / "tutelage-run", *_flags(one)], stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while (one / "work/students/auxiliary/checkpoints/2026-01-02").exists():
            assert process.poll() is None
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
    printed = _run("run", one)
    assert "teacher: trained on 2026-01-02 to 2026-01-03, " in printed
    assert (one / "work/teacher/checkpoints/2026-01-01/state.json").read_bytes() == first
    assert "Stale" not in _run("status", one)
    assert "Nothing to do" in _run("run", one)

    other = _prepare(tmp_path / "other")
    _write(other / "raw", DAYS[1], found)
    _run("run", other)
    assert_same(one / "work", other / "work")
    rows = pl.read_delta(str(one / "work/lake/interactions")).filter(day=DAYS[1])
    assert rows.height == 255

    # The same events again, the other way round: nothing has changed.
    path = other / "raw/2026-01-02.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    _run("materialize", other)
    assert "Nothing to do" in _run("run", other)
