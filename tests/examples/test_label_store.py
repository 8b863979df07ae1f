"""The example of the label store runs: its own teacher's labels train its own student, and one of tutelage's."""

import importlib.util
from datetime import date
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from tutelage.launch import steps
from tutelage.launch.session import Session
from tutelage.pipeline import LabelPartition, SoftLabelStore

EXAMPLE = Path(__file__).parents[2] / "examples/label_store.py"
DAYS = [date(2026, 1, 1), date(2026, 1, 2)]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("label_store", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    workdir = tmp_path_factory.mktemp("W")
    session = Session.open(config=str(EXAMPLE), workdir=str(workdir), smoke=True, end_day=str(DAYS[-1]))
    steps.materialize(session, session.days)
    return session


@pytest.fixture(scope="module")
def lake(session: Session, example: ModuleType) -> str:
    """The lake with the labels of the example's own teacher."""
    lake = str(session.run.lake.interactions.path.parent)
    example.teach(lake)
    return lake


def test_every_example_has_a_label_that_was_made_before_its_click_was_counted(lake: str) -> None:
    store = SoftLabelStore.open(lake)
    assert store.coverage(pl.scan_delta(f"{lake}/interactions"))["coverage"].to_list() == [1.0, 1.0]
    labels = pl.concat([store.read(LabelPartition("own", "pre_update", day)) for day in DAYS])
    # 10,000 examples in batches of 512. Nothing was counted before the first batch: its odds are 1 to 1.
    assert labels["teacher_step"].value_counts().sort("teacher_step").rows() == [
        *((n, 512) for n in range(19)),
        (19, 272),
    ]
    assert labels.filter(teacher_step=0)["click_logit"].unique().to_list() == [0.0]
    assert labels.filter(pl.col("teacher_step") > 0)["click_logit"].n_unique() > 100


def test_the_own_student_learns_that_higher_positions_are_clicked_more(
    lake: str, example: ModuleType
) -> None:
    clicks = pl.read_delta(f"{lake}/interactions").group_by("position").agg(pl.mean("click"), pl.len())
    seen = clicks.filter(pl.col("len") > 200).sort("position")
    logits = example.train(lake)[seen["position"].to_numpy()]
    assert np.corrcoef(logits, seen["click"].to_numpy())[0, 1] > 0.8


def test_a_student_of_tutelage_trains_on_the_labels_of_the_own_teacher_and_is_served(
    session: Session, lake: str
) -> None:
    steps.train(session, "student")
    used = session.run.lake.metrics.scan(model="student", metric="label_coverage").collect()
    assert used["value"].to_list() == [1.0, 1.0]
    (exported,) = steps.export(session, "student", days=DAYS[-1:])
    assert exported.verdict.blessed
    served = list(session.run.root.glob("export/student/20260102*/saved_model.pb"))
    assert [path.parent for path in served] == [exported.version.path]
