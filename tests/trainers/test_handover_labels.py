"""After a change of teacher a student reads the new one's labels, as its config says."""

import dataclasses
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import AUXILIARY, DAYS, MODEL, ROWS, make_run
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import distil
from tutelage.pipeline.errors import UserError
from tutelage.trainers.config import StudentConfig, TeacherConfig
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.handover import Labeller, TakeOver, read_takeovers, write_takeovers
from tutelage.trainers.run import Run

WIDE = TeacherConfig(
    name="wide", model=dataclasses.replace(MODEL, backbone=MLP(hidden=(12, 6))), min_examples=130
)


def _change(day: date) -> TakeOver:
    return TakeOver(
        before=Labeller(model="teacher", name="teacher", min_examples=30),
        name="wide",
        teacher={"type": "TeacherConfig", "name": "wide"},
        first_day=None,
        judged=[DAYS[0], DAYS[1]],
        checks=[{"name": "click log_loss", "value": 0.5, "reference": 0.6, "bound": 0.6, "passed": True}],
        from_day=day,
        decided_at="2026-01-03 04:05:06",
    )


@pytest.fixture(scope="module")
def succeeded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Both teachers were trained on the three days; from the second day on the later one labels."""
    run = make_run(tmp_path_factory.mktemp("succeeded"), min_examples=30)
    train_teacher(run, DAYS)
    train_teacher(run.of_successor(WIDE), DAYS)
    return dataclasses.replace(run, teacher=WIDE, teacher_model="teacher-wide", takeovers=(_change(DAYS[1]),))


@pytest.fixture
def copy(succeeded: Run, tmp_path: Path) -> Callable[[str], Run]:
    def copied(name: str) -> Run:
        shutil.copytree(succeeded.root, tmp_path / name)
        return dataclasses.replace(succeeded, root=tmp_path / name)

    return copied


def _counts(run: Run, model: str, day: date) -> dict[str, float]:
    rows = run.lake.metrics.scan(model=model, day=day, task="", basis="pre_update").collect()
    return {name: value for name, value in rows.select("metric", "value").iter_rows() if "cover" not in name}


def _tensors(run: Run, model: str, day: date) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(run.checkpoints(model).folder / str(day) / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name) for name in names}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_takeovers(tmp_path) == ()
    changes = (_change(DAYS[1]), dataclasses.replace(_change(DAYS[2]), name="wider", first_day=DAYS[0]))
    write_takeovers(tmp_path, changes)
    assert read_takeovers(tmp_path) == changes
    write_takeovers(tmp_path, [])
    assert read_takeovers(tmp_path) == ()
    assert [path.name for path in tmp_path.iterdir()] == ["takeovers.json"]


def test_the_file_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    (tmp_path / "takeovers.json").write_text(
        """[{"before": {"model": "teacher", "name": "teacher", "min_examples": 30}, "name": "wide",
        "teacher": {"type": "TeacherConfig", "name": "wide"}, "first_day": null,
        "judged": ["2026-01-01", "2026-01-02"], "checks": [{"name": "click log_loss", "value": 0.5, "reference": 0.6,
        "bound": 0.6, "passed": true}], "from_day": "2026-01-02", "decided_at": "2026-01-03 04:05:06"}]"""
    )
    assert read_takeovers(tmp_path) == (_change(DAYS[1]),)


def test_each_day_is_labelled_by_the_teacher_of_its_time(succeeded: Run) -> None:
    again = dataclasses.replace(_change(DAYS[2]), before=Labeller(model="b", name="b", min_examples=1))
    run = dataclasses.replace(succeeded, takeovers=(_change(DAYS[1]), again))
    assert [run.labeller(day).model for day in DAYS] == ["teacher", "b", "teacher-wide"]
    assert run.labeller(DAYS[2]) == Labeller(model="teacher-wide", name="wide", min_examples=130)


def test_labels_are_masked_by_the_examples_that_their_own_teacher_was_trained_on(
    copy: Callable[[str], Run],
) -> None:
    run = copy("keep")
    train_student(run, AUXILIARY, DAYS)
    # The first teacher was fit after 32 rows. The second after 130, in batches of 16 of days of 60, 57 and 64:
    # its first two days are 117, and a batch of the third makes 133.
    assert _counts(run, "auxiliary", DAYS[0]) == {
        "labels_used": 28,
        "teacher_too_young": 32,
        "labels_missing": 0,
    }
    assert _counts(run, "auxiliary", DAYS[1]) == {
        "labels_used": 0,
        "teacher_too_young": ROWS[DAYS[1]],
        "labels_missing": 0,
    }
    assert _counts(run, "auxiliary", DAYS[2]) == {
        "labels_used": 48,
        "teacher_too_young": 16,
        "labels_missing": 0,
    }


def test_masked_days_of_a_new_teacher_are_counted_and_trained_on_with_hard_labels_alone(
    copy: Callable[[str], Run],
) -> None:
    run = copy("mask")
    mature = dataclasses.replace(run, teacher=dataclasses.replace(WIDE, min_examples=0))
    mask = dataclasses.replace(AUXILIARY, new_teacher="mask", mask_days=1)
    train_student(mature, mask, DAYS)
    assert _counts(run, "auxiliary", DAYS[1]) == {
        "labels_used": 0,
        "teacher_too_young": 0,
        "labels_missing": 0,
        "teacher_changed": ROWS[DAYS[1]],
    }
    assert _counts(run, "auxiliary", DAYS[2])["labels_used"] == ROWS[DAYS[2]]
    # A student that has known no other teacher masks nothing.
    late = dataclasses.replace(mask, name="late", first_day=DAYS[1])
    train_student(mature, late, DAYS[:2])
    assert _counts(run, "late", DAYS[1])["labels_used"] == ROWS[DAYS[1]]


def test_an_adapter_starts_anew_with_a_new_teacher_and_only_it(copy: Callable[[str], Run]) -> None:
    def student(**fields: object) -> StudentConfig:
        distillation = distil("click", adapter=True)
        return StudentConfig(name="adapting", model=MODEL, distillation=distillation, **fields)  # type: ignore[arg-type]

    kept, anew, one = copy("kept"), copy("anew"), copy("one")
    train_student(kept, student(), DAYS[:2])
    train_student(anew, student(new_teacher="adapt"), DAYS[:2])
    for day, differs in ((DAYS[0], False), (DAYS[1], True)):
        tensors = [_tensors(run, "adapting", day) for run in (kept, anew)]
        other = {name for name in tensors[0] if not np.array_equal(tensors[0][name], tensors[1][name])}
        assert any("adapters" in name for name in other) == differs
    # Days trained on in separate calls end as in one call, and so does the reset.
    for day in DAYS[:2]:
        train_student(one, student(new_teacher="adapt"), [day])
    tensors = [_tensors(run, "adapting", DAYS[1]) for run in (anew, one)]
    for name, value in tensors[0].items():
        np.testing.assert_array_equal(value, tensors[1][name], err_msg=name)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"new_teacher": "trust"}, "new_teacher is 'trust', expected keep, mask or adapt"),
        (
            {"new_teacher": "mask"},
            "new_teacher is 'mask' and mask_days 0, expected days above 0 with mask, and 0 with keep and adapt",
        ),
        (
            {"mask_days": 2},
            "new_teacher is 'keep' and mask_days 2, expected days above 0 with mask, and 0 with keep and adapt",
        ),
        (
            {"new_teacher": "adapt"},
            "new_teacher is 'adapt' and there is no adapter; give its distillation adapter=True",
        ),
    ],
)
def test_a_config_of_a_new_teacher_that_contradicts_itself_is_refused(
    fields: dict[str, object], says: str
) -> None:
    with pytest.raises(UserError) as error:
        dataclasses.replace(AUXILIARY, **fields)  # type: ignore[arg-type]
    assert str(error.value) == f"student 'auxiliary': {says}"
