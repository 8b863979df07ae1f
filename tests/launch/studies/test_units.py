"""Units: which results count as done, and whose scores an arm is compared with."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from tutelage.launch.config import load
from tutelage.launch.studies.design import Setting
from tutelage.launch.studies.units import Unit, UnitResult, _teacher_scores

DAYS = [date(2024, 5, 1), date(2024, 5, 2)]


def _unit(folder: Path, design: str) -> Unit:
    setting = Setting(name="base", teacher=load("synthetic", smoke=True).teacher, students=())
    return Unit(setting=setting, seed=1, folder=folder / "base-1", design=design)


def test_a_result_of_another_design_or_without_all_its_files_is_not_done(tmp_path: Path) -> None:
    unit = _unit(tmp_path, "this")
    assert not unit.done
    unit.scratch.mkdir()
    unit.keep(UnitResult(*(pl.DataFrame({"arm": [name]}) for name in ("sums", "facts", "buckets"))))
    assert unit.done
    assert not unit.scratch.exists()
    assert pl.read_parquet(unit.folder / "sums.parquet")["arm"].item() == "sums"
    assert not _unit(tmp_path, "another").done
    # Results of older releases have no buckets.
    (unit.folder / "buckets.parquet").unlink()
    assert not unit.done


def test_another_design_never_resumes_what_this_one_left_unfinished(tmp_path: Path) -> None:
    assert _unit(tmp_path, "this").scratch != _unit(tmp_path, "another").scratch


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run whose teacher scores 0.1 on each day, and whose labels by the plan `frozen` are 0.9 on the second."""
    labels = pl.LazyFrame(
        {
            "teacher": ["frozen", "frozen", "age1"],
            "day": [date(2024, 4, 30), DAYS[1], DAYS[1]],
            "example_id": [7, 2, 2],
            "teacher_step": [5, 5, 5],
            "click_logit": [0.7, 0.9, 0.5],
        }
    )
    for n, day in enumerate(DAYS, 1):
        scores = pl.DataFrame({"example_id": [n], "click_logit": [0.1], "watch_log1p": [0.2]})
        scores.write_parquet(tmp_path / f"{day}.parquet")
    return SimpleNamespace(
        schema=SimpleNamespace(outputs=["click_logit"]),
        predictions=lambda model, day: tmp_path / f"{day}.parquet",
        lake=SimpleNamespace(
            soft_labels=SimpleNamespace(scan=lambda teacher: labels.filter(teacher=teacher))
        ),
    )


def test_an_arm_on_the_labels_of_a_plan_is_compared_with_the_scores_that_became_its_labels(run: Any) -> None:
    assert _teacher_scores(run, "frozen", DAYS).rows() == [(2, 0.9)]


def test_any_other_arm_is_compared_with_its_teacher_s_scores_of_the_day_ahead(run: Any) -> None:
    assert _teacher_scores(run, "", DAYS).rows() == [(1, 0.1), (2, 0.1)]
