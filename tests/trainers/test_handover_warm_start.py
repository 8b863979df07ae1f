"""A successor starts with the variables of the teacher that have the same name and shape."""

import dataclasses
import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.growing import growing_run
from tests.tiny import BATCH, DAYS, MODEL, make_run
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json
from tutelage.trainers.config import SuccessorConfig, TeacherConfig
from tutelage.trainers.day_loop import train_successor, train_teacher
from tutelage.trainers.day_pass import Attempt
from tutelage.trainers.feed import Feed
from tutelage.trainers.handover import warm_start
from tutelage.trainers.partial import resume_partial, save_partial
from tutelage.trainers.run import TEACHER, Run
from tutelage.trainers.teacher import Teacher
from tutelage.trainers.trainer import Trainer

NARROW = dataclasses.replace(MODEL, without=("topic",))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher without topics was trained on two days."""
    run = make_run(tmp_path_factory.mktemp("taught"))
    run = dataclasses.replace(run, teacher=TeacherConfig(model=NARROW))
    train_teacher(run, DAYS[:2])
    return run


def _trainer(run: Run, model: ModelConfig) -> Trainer:
    return Trainer(run.schema, model, batch_size=BATCH, seed=run.training.seed)


def _start(trainer: Trainer, run: Run, first_day: date) -> None:
    """Warm-start `trainer` as the successor `wide`."""
    wide = SuccessorConfig(
        teacher=TeacherConfig(name="wide", model=trainer.ranker.config), first_day=first_day
    )
    warm_start(trainer, Teacher(run).build(), run, wide)


def _tensors(run: Run, model: str) -> dict[str, np.ndarray]:
    path = run.checkpoints(model).folder / str(DAYS[1]) / "variables"
    reader = tf.train.load_checkpoint(str(path))
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name) for name in names}


def test_a_successor_of_the_same_network_continues_as_the_teacher_did_bit_for_bit(taught: Run) -> None:
    same = SuccessorConfig(teacher=TeacherConfig(name="same", model=NARROW), first_day=DAYS[1])
    train_successor(taught, same, DAYS[1:2])
    found = read_json(taught.root / "teacher-same/warm_start.json")
    assert (found["teacher"], found["day"], found["anew"]) == ("teacher", str(DAYS[0]), [])
    own, teacher = _tensors(taught, "teacher-same"), _tensors(taught, TEACHER)
    assert own.keys() == teacher.keys()
    for name, value in teacher.items():
        np.testing.assert_array_equal(own[name], value, err_msg=name)


def test_a_variable_of_another_shape_or_name_starts_anew_and_is_listed(taught: Run) -> None:
    # One more feature, and a wider second layer: the first one's input and the heads' are wider too.
    model = dataclasses.replace(MODEL, backbone=MLP(hidden=(8, 6)))
    trainer, fresh, teacher = _trainer(taught, model), _trainer(taught, model), _trainer(taught, NARROW)
    teacher.restore(taught.checkpoints(TEACHER), taught.checkpoints(TEACHER).states()[0])
    _start(trainer, taught, DAYS[1])
    found = read_json(taught.root / "teacher-wide/warm_start.json")
    assert sorted(found["taken"]) == [
        "embeddings/user",
        "heads/click/bias",
        "heads/watch/bias",
        "shared/0/bias",
    ]
    anew = {each["name"]: (each["shape"], each["teacher"]) for each in found["anew"]}
    # Two embeddings of 4 and two numbers; without topics one of them.
    assert anew["shared/0/kernel"] == ([10, 8], [6, 8])
    assert anew["shared/1/kernel"] == ([8, 6], [8, 4])
    assert anew["heads/click/kernel"] == ([6, 1], [4, 1])
    assert anew["embeddings/topic"] == ([10, 4], None)
    assert set(anew) == {
        "embeddings/topic",
        "shared/0/kernel",
        "shared/1/kernel",
        "shared/1/bias",
        "heads/click/kernel",
        "heads/watch/kernel",
    }
    (table,), (there,), (start,) = trainer.sparse, teacher.sparse, fresh.sparse
    for own, theirs, first in zip(
        [table, *trainer.slots(table)],
        [there, *teacher.slots(there)],
        [start, *fresh.slots(start)],
        strict=True,
    ):
        np.testing.assert_array_equal(own[:40], theirs[:40])
        np.testing.assert_array_equal(own[40:], first[40:])
        assert not np.array_equal(theirs[:40], first[:40])
    bias, other = trainer.ranker.backbone.shared[0].bias, teacher.ranker.backbone.shared[0].bias
    for own, theirs in zip([bias, *trainer.slots(bias)], [other, *teacher.slots(other)], strict=True):
        np.testing.assert_array_equal(own, theirs)
        assert np.any(theirs)
    kernel = trainer.ranker.backbone.shared[0].kernel
    np.testing.assert_array_equal(kernel, fresh.ranker.backbone.shared[0].kernel)
    assert not any(np.any(slot) for slot in trainer.slots(kernel))
    assert int(trainer.adam.iterations) == 0 < int(teacher.adam.iterations)


def test_the_teacher_must_have_been_trained_up_to_the_day_before(taught: Run, tmp_path: Path) -> None:
    trainer = _trainer(taught, NARROW)
    for run, first_day, have in (
        (taught, DAYS[2].replace(day=4), "2026-01-01 to 2026-01-02; train it on 2026-01-03 first"),
        (taught, DAYS[0], "2026-01-01 to 2026-01-02; train it on 2025-12-31 first"),
        (dataclasses.replace(taught, root=tmp_path), DAYS[1], "no day; train it on 2026-01-01 first"),
    ):
        run.lake.create()
        with pytest.raises(UserError) as error:
            _start(trainer, run, first_day)
        assert str(error.value) == (
            f"successor 'wide' starts from the state of teacher before {first_day}, which was trained on {have}, "
            "or give another first_day, or none to start with nothing"
        )
    shutil.copytree(taught.root, tmp_path / "pruned")
    pruned = dataclasses.replace(taught, root=tmp_path / "pruned")
    pruned.checkpoints(TEACHER).prune(DAYS[0])
    with pytest.raises(UserError) as error:
        _start(trainer, pruned, DAYS[1])
    assert str(error.value) == (
        "successor 'wide' starts from the state of teacher before 2026-01-02, and its checkpoint of 2026-01-01 was "
        "pruned; give a first_day after 2026-01-02, or none to start with nothing"
    )


def test_after_a_skipped_day_a_successor_starts_from_the_day_before_it(tmp_path: Path) -> None:
    run = dataclasses.replace(make_run(tmp_path), teacher=TeacherConfig(model=NARROW))
    train_teacher(run, DAYS[:1])
    run.quarantine(TEACHER).write(DAYS[1], "skipped", [{"said": "fail"}])
    _start(_trainer(run, NARROW), run, DAYS[2])
    assert read_json(run.warm_start("teacher-wide"))["day"] == str(DAYS[0])


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher of two days whose users and topics grow."""
    run = growing_run(tmp_path_factory.mktemp("grown"))
    train_teacher(run, DAYS[:2])
    return run


def test_ids_are_copied_with_their_embeddings_and_training_continues_bit_for_bit(
    grown: Run,
) -> None:
    same = SuccessorConfig(teacher=TeacherConfig(name="same", model=MODEL), first_day=DAYS[1])
    train_successor(grown, same, DAYS[1:2])
    own, teacher = _tensors(grown, "teacher-same"), _tensors(grown, TEACHER)
    assert own.keys() == teacher.keys()
    assert sum("/vocabulary/" in f"/{name}" for name in own) == 8
    for name, value in teacher.items():
        np.testing.assert_array_equal(own[name], value, err_msg=name)


def test_a_feature_whose_embeddings_start_anew_has_no_ids(grown: Run) -> None:
    trainer = _trainer(grown, dataclasses.replace(MODEL, embedding_dim=6))
    _start(trainer, grown, DAYS[1])
    assert trainer.vocabulary
    assert [frame.height for frame in trainer.vocabulary.known.values()] == [0, 0]
    anew = read_json(grown.root / "teacher-wide/warm_start.json")["anew"]
    assert {"embeddings/user", "embeddings/topic"} < {each["name"] for each in anew}


def test_an_interrupted_first_day_is_resumed_only_while_the_state_it_was_begun_from_stays(
    taught: Run, tmp_path: Path
) -> None:
    shutil.copytree(taught.root, tmp_path / "w")
    run = dataclasses.replace(taught, root=tmp_path / "w")
    trainer, own = _trainer(run, NARROW), run.checkpoints("teacher-wide")
    _start(trainer, run, DAYS[1])
    day = Feed(run.lake, trainer.transform, without=NARROW.without).read(DAYS[1])
    ahead, trained = trainer.score(day), trainer.train_day(day)
    save_partial(trainer, own, day, Attempt(ahead=ahead, trained=trained, rates=1.0))
    assert resume_partial(trainer, own, day)
    # The teacher is rolled back, and trained on its day again.
    path = run.checkpoints(TEACHER).folder / str(DAYS[0]) / "state.json"
    path.write_text(json.dumps({**read_json(path), "id": "another"}))
    _start(trainer, run, DAYS[1])
    assert resume_partial(trainer, own, day) is None
