"""A workdir whose teacher changes and whose ids grow ends, after a correction or a rollback, as an undisturbed one."""

import shutil
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.launch import small, successors
from tests.launch.successors import AS_GOOD, NEVER, assert_as_if
from tutelage.launch.actions.rollback import rollback
from tutelage.launch.lifecycle import stale
from tutelage.launch.session import Session
from tutelage.models.config import ModelConfig
from tutelage.pipeline.io.json import read_json
from tutelage.trainers.feed import Feed
from tutelage.trainers.trainer import Trainer

pytestmark = pytest.mark.slow
DAYS = [*small.DAYS, *(small.DAYS[-1].replace(day=day) for day in (6, 7))]

GROWN = """
from dataclasses import replace
from datetime import date
from tests.launch import successors_config
from tutelage.pipeline.schema import Feature
from tutelage.trainers.config import SuccessorConfig

def experiment(*, smoke):
    made = successors_config.experiment(smoke=smoke)
    age, tags = Feature(name="age", dtype="float32"), Feature(name="tags", dtype="string", capacity=10, length=2)
    schema = replace(made.schema, features=(age, *made.schema.features, tags))
    wide = made.successor.teacher

    def old(config):
        return replace(config, model=replace(config.model, without=(*config.model.without, "age", "tags")))

    return replace(
        made,
        source=replace(made.source, schema=schema, renamed=(("tags", "labels"),)),
        schema=schema,
        teacher=old(wide),
        students=(*map(old, made.students), replace(made.students[0], name="keen")),
        successor=SuccessorConfig(teacher=replace(wide, name="wider"), first_day=date(2026, 1, 5), judged_days=1),
    )
"""


def _fresh(folder: Path) -> Path:
    """A workdir to be, and raw events of all days beside it."""
    folder.mkdir(exist_ok=True)
    small.write_events(folder / "raw", DAYS)
    return folder / "w"


def _copy(workdir: Path, folder: Path) -> Path:
    """With the raw events."""
    return Path(shutil.copytree(workdir.parent, folder)) / "w"


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train four days; `wide` takes over after the fourth, before any student is trained."""
    workdir = _fresh(tmp_path_factory.mktemp("decided"))
    successors.run(workdir, DAYS[3], AS_GOOD)
    (change,) = successors.changes(workdir)
    assert (change["judged"], change["from_day"]) == (["2026-01-04"], "2026-01-05")
    return workdir


@pytest.fixture(scope="module")
def succeeded(decided: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Add a fifth day, on which only the new teacher is trained."""
    workdir = _copy(decided, tmp_path_factory.mktemp("succeeded") / "copy")
    successors.run(workdir, DAYS[4])
    return workdir


def _labelled(workdir: Path, producer: str) -> dict[str, str]:
    """By whom, by day."""
    labels = pl.read_delta(str(workdir / "lake/soft_labels")).filter(producer=producer)
    return dict(labels.select("day", "teacher").unique().sort("day").cast(pl.String).iter_rows())


def _used(workdir: Path, day: int) -> dict[str, float]:
    """Return the labels that each student was trained on for a day."""
    used = pl.read_delta(str(workdir / "lake/metrics")).filter(
        pl.col("day").dt.day() == day, metric="labels_used"
    )
    return dict(used.select("model", "value").iter_rows())


def _learner(session: Session, model: str, config: ModelConfig, day: date) -> Trainer:
    trainer = Trainer(session.run.schema, config, batch_size=16, seed=1)
    (state,) = (state for state in session.run.checkpoints(model).states() if state.day == day)
    trainer.restore(session.run.checkpoints(model), state)
    return trainer


def test_the_new_teacher_knows_the_ids_of_the_old_one_and_labels_by_them(succeeded: Path) -> None:
    session = successors.open_session(succeeded, DAYS[4])
    wide = _learner(session, "teacher-wide", session.run.teacher.model, DAYS[3])
    teacher = _learner(session, "teacher", session.experiment.teacher.model, DAYS[3])
    assert wide.vocabulary
    assert teacher.vocabulary
    for name, known in teacher.vocabulary.known.items():
        assert (known["row"] > 0).sum() > 6
        assert_frame_equal(wide.vocabulary.known[name], known)
    assert _labelled(succeeded, "snapshot") == {
        **{f"2026-01-0{day}": "teacher" for day in (2, 3, 4)},
        "2026-01-05": "wide",
    }
    feed = Feed(session.run.lake, wide.transform, without=wide.ranker.config.without)
    day = feed.read(DAYS[4], vocabulary=wide.vocabulary)
    where = {"teacher": "wide", "producer": "snapshot", "day": DAYS[4]}
    labels = pl.DataFrame({"example_id": day.whole.example_id}).join(
        session.run.lake.soft_labels.scan(**where).collect(), on="example_id", maintain_order="left"
    )
    np.testing.assert_allclose(labels["click_logit"], wide.score(day)["click_logit"], rtol=1e-5)
    assert _used(succeeded, 5) == {"auxiliary": 40, "snapshot": 40}


def test_the_schema_grows_after_a_change_and_the_next_successor_takes_what_is_new(
    decided: Path, tmp_path: Path
) -> None:
    workdir, grown = _copy(decided, tmp_path / "copy"), tmp_path / "grown.py"
    grown.write_text(GROWN)
    successors.run(workdir, DAYS[5], AS_GOOD, config=grown)
    started = read_json(workdir / "teacher-wider/warm_start.json")
    assert (started["teacher"], started["day"]) == ("wide", "2026-01-04")
    assert {"embeddings/user_id", "embeddings/item"} < set(started["taken"])
    assert [each["name"] for each in started["anew"]] == ["shared/0/kernel", "embeddings/tags"]
    session = successors.run(workdir, DAYS[6], config=grown)
    assert session.run.teacher_model == "teacher-wider"
    assert stale.find(session) is None
    by = {**dict.fromkeys(range(2, 5), "teacher"), 5: "wide", 6: "wide", 7: "wider"}
    assert _labelled(workdir, "snapshot") == {f"2026-01-0{day}": teacher for day, teacher in by.items()}
    assert _used(workdir, 7) == {"auxiliary": 40, "keen": 40, "snapshot": 40}


def test_after_a_rollback_to_before_the_decision_everything_is_as_if_it_had_never_been_made(
    succeeded: Path, tmp_path: Path
) -> None:
    workdir = _copy(succeeded, tmp_path / "w")
    rollback(successors.open_session(workdir, DAYS[4], AS_GOOD), to_day=str(DAYS[2]))
    assert successors.changes(workdir) == []
    successors.run(workdir, DAYS[3], AS_GOOD)
    successors.run(workdir, DAYS[4])
    assert_as_if(succeeded, workdir)


def test_a_corrected_day_before_the_decision_has_the_decision_made_again(
    succeeded: Path, tmp_path: Path
) -> None:
    workdir, expected = _copy(succeeded, tmp_path / "one"), _fresh(tmp_path / "other")
    for each in (workdir, expected):
        successors.mend_events(each, DAYS[3])
    successors.materialize(workdir, DAYS[3])
    before = successors.changes(workdir)
    successors.run(workdir, DAYS[4], AS_GOOD)
    # The old teacher, rolled back, is trained on the fifth day too, as in one run over all five.
    successors.run(expected, DAYS[4], AS_GOOD)
    assert successors.changes(workdir) != before
    assert_as_if(expected, workdir)


def test_a_corrected_day_after_the_decision_leaves_the_decision(
    decided: Path, succeeded: Path, tmp_path: Path
) -> None:
    workdir, expected = _copy(succeeded, tmp_path / "one"), _copy(decided, tmp_path / "other")
    for each in (workdir, expected):
        successors.mend_events(each, DAYS[4])
    successors.materialize(workdir, DAYS[4])
    found = stale.find(successors.open_session(workdir, DAYS[4]))
    assert found
    assert (found.invalidation.takeovers, set(found.invalidation.since.values())) == ([], {DAYS[4]})
    for each in (workdir, expected):
        successors.run(each, DAYS[4])
    assert_as_if(expected, workdir)


def test_a_successor_starts_again_from_a_corrected_day(tmp_path: Path) -> None:
    workdir, expected = _fresh(tmp_path / "one"), _fresh(tmp_path / "other")
    successors.run(workdir, DAYS[3], NEVER)
    started = (workdir / "teacher-wide/checkpoints/2026-01-03/variables.data-00000-of-00001").read_bytes()
    for each in (workdir, expected):
        successors.mend_events(each, DAYS[1])
    successors.materialize(workdir, DAYS[1])
    for each in (workdir, expected):
        successors.run(each, DAYS[3], NEVER)
    assert_as_if(expected, workdir)
    again = (workdir / "teacher-wide/checkpoints/2026-01-03/variables.data-00000-of-00001").read_bytes()
    assert started != again
