"""What the studies train, on which labels, and what they compare with what."""

import dataclasses
from datetime import date, timedelta
from typing import Any

import pytest

from tutelage.launch.config import load
from tutelage.launch.experiment import Experiment
from tutelage.launch.studies.design import STUDIES, Design, StudentArm, design
from tutelage.pipeline.errors import UserError

DAYS = [date(2022, 4, 25) + timedelta(days=i) for i in range(10)]
LATE = date(2022, 4, 30)  # The sixth day: KuaiRand's late students start on it.


def _kuairand() -> Experiment:
    return load("kuairand")


def _design(*studies: int) -> Design:
    return design(_kuairand(), DAYS, studies)


def _arms(made: Design) -> list[tuple[str, str | None]]:
    return [(arm.name, arm.baseline) for arm in made.arms]


def _trained(made: Design, setting: str) -> dict[str, StudentArm]:
    (found,) = (s for s in made.settings if s.name == setting)
    return {trained.name: trained for trained in found.students}


def test_the_first_study_compares_all_students_and_the_towers_with_direct_distillation() -> None:
    assert _arms(_design(1)) == [
        ("control", None),
        ("direct", "control"),
        ("auxiliary", "control"),
        ("late_control", None),
        ("late_direct", "late_control"),
        ("late_auxiliary", "late_control"),
        ("auxiliary", "direct"),
        ("late_auxiliary", "late_direct"),
        ("teacher@base", None),
    ]
    assert [setting.name for setting in _design(1).settings] == ["base"]


def test_a_teacher_is_several_times_as_wide_as_the_student() -> None:
    made = _design(2)
    sizes = {s.name: s.teacher.model for s in made.settings if s.name != "base"}
    assert {name: (m.embedding_dim, m.backbone.hidden) for name, m in sizes.items()} == {
        "size1": (8, (64, 32)),
        "size2": (16, (128, 64)),
        "size4": (32, (256, 128)),
        "size8": (64, (512, 256)),
    }
    (arm,) = (arm for arm in made.arms if arm.name == "late_auxiliary@size4")
    assert (arm.baseline, arm.x, arm.group, arm.teacher) == ("late_control", 4, "late", "teacher@size4")
    # The baseline reads no labels: it is trained once, beside the base teacher.
    assert sorted(_trained(made, "base")) == ["control", "late_control"]
    assert sorted(_trained(made, "size4")) == ["auxiliary@size4", "late_auxiliary@size4"]


def test_labels_have_the_age_that_their_plan_says() -> None:
    made = _design(3)
    (base,) = made.settings
    assert base.plans["age0"] == dict(zip(DAYS[1:], DAYS, strict=False))
    assert base.plans["age3"] == dict(zip(DAYS[4:], DAYS, strict=False))
    # A snapshot every seven days, of which the first is of the day before the late students start.
    assert [base.plans["weekly"][day] for day in DAYS[5:]] == [DAYS[4]] * 5
    # Frozen half as long before that.
    assert set(base.plans["frozen"].values()) == {DAYS[1]}
    assert min(base.plans["frozen"]) == DAYS[2]
    trained = _trained(made, "base")["late_auxiliary@age3"]
    assert (trained.labels, trained.student.producer, trained.student.first_day) == ("age3", "snapshot", LATE)
    adapted = _trained(made, "base")["late_auxiliary@frozen_adapter"]
    assert adapted.labels == "frozen"
    assert all(d.adapter for d in adapted.student.distillation)
    assert ("late_auxiliary@age0", "late_auxiliary@frozen") in _arms(made)
    assert [arm.x for arm in made.arms if arm.x is not None] == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_label_age_that_no_day_of_a_late_student_can_have_is_left_out() -> None:
    made = design(_kuairand(), DAYS[:7], [3])
    assert [arm.x for arm in made.arms if arm.x is not None] == [0, 1, 2, 3, 4, 5]


def test_only_the_leaked_arm_reads_labels_of_a_teacher_that_saw_the_day() -> None:
    made = _design(4)
    (base,) = made.settings
    assert base.plans["leaked"] == dict(zip(DAYS, DAYS, strict=True))
    leaked = [t.name for t in base.students if t.labels == "leaked"]
    assert leaked == ["late_auxiliary@leaked"]


def test_only_a_biased_teacher_lacks_rows() -> None:
    made = _design(5)
    sampling = {s.name: s.teacher.sampling for s in made.settings}
    assert (sampling["negatives"].negatives_of, sampling["negatives"].rate) == ("click", 0.5)
    assert (sampling["negatives"].correction, sampling["corrected"].correction) == ("none", "offset")
    assert sampling["domain"].only == "tab=1"
    assert sampling["base"] == _kuairand().teacher.sampling
    assert {t.student.sampling for s in made.settings for t in s.students} == {sampling["base"]}
    assert {arm.group for arm in made.arms} >= {"negatives", "corrected", "domain", "oldest"}
    assert set(made.settings[0].plans["oldest"].values()) == {DAYS[0]}


def test_tasks_are_distilled_in_every_combination() -> None:
    trained = _trained(_design(6), "base")
    assert {name: [d.task for d in t.student.distillation] for name, t in trained.items()} == {
        "late_control": [],
        "late_auxiliary@click": ["click"],
        "late_auxiliary@long_view": ["long_view"],
        "late_auxiliary@click_long_view": ["click", "long_view"],
        "late_auxiliary@watch": ["watch"],
        "late_auxiliary@click_watch": ["click", "watch"],
        "late_auxiliary@long_view_watch": ["long_view", "watch"],
        "late_auxiliary": ["click", "long_view", "watch"],
    }


def test_eight_students_of_one_teacher_have_a_baseline_each() -> None:
    made = _design(7)
    trained = _trained(made, "base")
    models = [trained[f"late_auxiliary@student{n}"].student.model for n in range(1, 9)]
    assert [(m.embedding_dim, m.backbone.hidden) for m in models] == [
        (4, (64, 32)),
        (8, (64, 32)),
        (12, (64, 32)),
        (16, (64, 32)),
        (4, (64,)),
        (8, (64,)),
        (12, (64,)),
        (16, (64,)),
    ]
    for n in range(1, 9):
        assert trained[f"late_control@student{n}"].student.model == models[n - 1]
        assert (f"late_auxiliary@student{n}", f"late_control@student{n}") in _arms(made)


def test_every_comparison_has_both_arms_and_no_student_is_trained_twice() -> None:
    made = _design(*STUDIES)
    for name, arms in made.by_study.items():
        names = {arm.name for arm in arms}
        assert {other for arm in arms for other in (arm.baseline, arm.teacher) if other} <= names, name
    for setting in made.settings:
        students = [t.student.name for t in setting.students]
        assert len(students) == len(set(students))
    trained = {t.name for s in made.settings for t in s.students} | {s.teacher_arm for s in made.settings}
    assert {arm.name for arm in made.arms} <= trained


def test_an_unknown_study_and_a_config_without_a_study_are_refused() -> None:
    with pytest.raises(UserError, match=r"^--studies: \[8\]; expected numbers of \[1, 2, 3, 4, 5, 6, 7\]$"):
        _design(8)
    with pytest.raises(
        UserError, match=r"^config 'kuairand' has no study; give it one, as in launch/configs"
    ):
        design(dataclasses.replace(_kuairand(), study=None), DAYS, [1])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"late": "late_control"}, "study: student 'late_control' must be distilled and have a baseline"),
        (
            {"full": "nobody"},
            "unknown student 'nobody'; this config has control, direct, auxiliary, late_control, ",
        ),
        ({"biased_task": "watch"}, "study: biased_task 'watch' is log1p, expected a binary task"),
        (
            {"item": "click"},
            "study: 'click' is not an id feature; expected one of user_id, video_id, author_id, music_id, ",
        ),
        ({"domain": "tabs=1"}, "study: 'tabs' is not an id feature; expected one of user_id, "),
    ],
)
def test_a_study_of_what_the_config_does_not_have_is_refused(fields: dict[str, Any], says: str) -> None:
    experiment = _kuairand()
    assert experiment.study
    changed = dataclasses.replace(experiment, study=dataclasses.replace(experiment.study, **fields))
    with pytest.raises(UserError) as error:
        design(changed, DAYS, [1])
    assert str(error.value).startswith(says)


def test_a_study_needs_to_know_the_user() -> None:
    schema = dataclasses.replace(_kuairand().schema, user=None)
    with pytest.raises(
        UserError, match=r"^study: its intervals resample users, and the schema names no `user`; name one$"
    ):
        design(dataclasses.replace(_kuairand(), schema=schema), DAYS, [1])
