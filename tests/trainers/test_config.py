"""What the configuration of training refuses, and in what words."""

import math
import re

import pytest

from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.errors import UserError
from tutelage.trainers.config import Sampling, StudentConfig, TeacherConfig, TrainingConfig

MODEL = ModelConfig(embedding_dim=4, backbone=MLP(hidden=(8,)))


def test_a_batch_has_a_row_at_least() -> None:
    TrainingConfig(batch_size=1)
    with pytest.raises(UserError, match=r"^training: batch_size is 0, expected at least 1$"):
        TrainingConfig(batch_size=0)


@pytest.mark.parametrize("share", [-0.01, 0.51, math.nan])
def test_a_holdout_is_a_share_of_at_most_a_half(share: float) -> None:
    TrainingConfig(batch_size=1, holdout=0)
    says = rf"^training: holdout is {share}, expected a share from 0 to 0.5, as in 0.02$"
    with pytest.raises(UserError, match=says):
        TrainingConfig(batch_size=1, holdout=share)


def test_a_teacher_s_min_examples_is_not_negative() -> None:
    TeacherConfig(model=MODEL, min_examples=0)
    with pytest.raises(UserError, match=r"^teacher: min_examples is -1, expected at least 0$"):
        TeacherConfig(model=MODEL, min_examples=-1)


@pytest.mark.parametrize("name", ["", "Wide", "1st", "a-b", "a b", "../a", "wide\n", "ä", "a" * 65])
def test_a_name_that_is_no_folder_partition_and_flag_in_one_is_refused(name: str) -> None:
    says = re.escape(f"model name {name!r}: expected a lower-case letter, then letters, digits or _")
    with pytest.raises(UserError, match=says):
        StudentConfig(name=name, model=MODEL)
    with pytest.raises(UserError, match=says):
        TeacherConfig(name=name, model=MODEL)


@pytest.mark.parametrize("name", ["a", "late_8", "a" * 64])
def test_a_plain_name_passes(name: str) -> None:
    StudentConfig(name=name, model=MODEL)
    TeacherConfig(name=name, model=MODEL)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "teacher"}, "student 'teacher': that name is the teacher's; choose another"),
        (
            {"distillation": distil("click", "click")},
            "student 'wide': task 'click' is distilled twice; give it once",
        ),
        ({"producer": "post_update"}, "student 'wide': producer is 'post_update', expected pre_update or"),
        ({"label_half_life": 0.0}, "student 'wide': label_half_life is 0.0, expected days above 0"),
    ],
)
def test_a_student_that_cannot_be_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        StudentConfig(**{"name": "wide", "model": MODEL, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rate": 0.0}, "sampling: rate is 0.0, expected a share above 0, at most 1"),
        ({"rate": 1.5}, "sampling: rate is 1.5, expected a share above 0, at most 1"),
        ({"correction": "both"}, "sampling: correction is 'both', expected offset, weights or none"),
        ({"only": "tab"}, "sampling: only is 'tab', expected feature=value, as in tab=1"),
    ],
)
def test_a_sampling_that_cannot_be_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        Sampling(**fields)  # type: ignore[arg-type]


def test_the_offset_of_dropped_negatives_is_what_they_add_to_the_odds() -> None:
    # A third is kept: the odds among the examples trained on are three times those of all.
    assert Sampling(negatives_of="click", rate=1 / 3).offsets == {"click": pytest.approx(math.log(3))}
    assert Sampling(negatives_of="click", rate=0.5, correction="weights").offsets == {}
    assert Sampling().offsets == {}
