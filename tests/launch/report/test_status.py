"""tutelage-status for models with growing id features."""

import dataclasses
import io
import json
from datetime import date
from pathlib import Path

from rich.console import Console

from tutelage.launch.report.status import print_status
from tutelage.launch.session import Session
from tutelage.trainers.checkpoints import State
from tutelage.trainers.metrics import write_metrics
from tutelage.trainers.run import TEACHER

DAY = date(2026, 1, 1)
CONFIG = """
import dataclasses
from tutelage.launch.configs import synthetic
from tutelage.pipeline.schema import Growth

def experiment(*, smoke):
    whole = synthetic.experiment(smoke=smoke)
    features = tuple(
        dataclasses.replace(f, grows=Growth()) if f.name == "video_id" else f for f in whole.schema.features
    )
    return dataclasses.replace(whole, schema=dataclasses.replace(whole.schema, features=features))
"""


def _id_lines(session: Session) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    print_status(session, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line for line in text.splitlines() if line.startswith("Ids: ")]


def test_status_counts_the_ids_of_each_model_on_its_last_day(tmp_path: Path) -> None:
    (tmp_path / "grows.py").write_text(CONFIG)
    session = Session.open(config=str(tmp_path / "grows.py"), workdir=str(tmp_path / "work"))
    assert _id_lines(session) == []
    folder = session.run.checkpoints(TEACHER).folder / str(DAY)
    folder.mkdir(parents=True)
    state = dataclasses.asdict(State(day=DAY, step=10, examples=5_000, rows=5_000, holdout=0.02))
    (folder / "state.json").write_text(json.dumps({**state, "day": str(DAY)}))
    counts = {
        "ids_known": 12_345.0,
        "ids_with_rows": 9_999.0,
        "ids_given": 1_200.0,
        "ids_evicted": 80.0,
        "ids_full": 2_346.0,
        "default_row_share": 0.0625,
    }
    rows = [
        {
            "task": "",
            "metric": name,
            "slice": "video_id",
            "basis": "pre_update",
            "value": value,
            "rows": 5_000,
        }
        for name, value in counts.items()
    ]
    write_metrics(session.run.lake.metrics, rows, run=session.run.name, day=DAY, model=TEACHER)
    assert _id_lines(session) == [
        "Ids: teacher, video_id on 2026-01-01: 12,345 ids known; 9,999, of at most 9,999, have an embedding; "
        "1,200 added, 80 evicted, no place for 2,346; 6.2% of the examples use the default embedding"
    ]
