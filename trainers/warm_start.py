"""A new teacher's start: what of the present one's variables has the same name and shape."""

import json
from collections.abc import Sequence
from datetime import date, timedelta

import tensorflow as tf

from tutelage.models.network import by_path
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import Run, successor_model
from tutelage.trainers.trainer import Trainer
from tutelage.trainers.vocabulary import Vocabulary


def warm_start(trainer: Trainer, run: Run, name: str, first_day: date) -> None:
    """Give the successor `name`, which has learnt nothing, what matches of the teacher's state before `first_day`.

    Of a growing feature whose rows are taken, the ids that have them come along.
    A variable matches by its name in the model and its shape, and brings what the optimizers keep of it; of the
    embedding table, which all features share, each feature's range of rows is one. Where a dense variable starts
    anew, the counts of updates do too: Adam's correction is for averages that begin at 0, and those that were
    taken then move more slowly for about 1,000 updates.

    What became of each is written to `Run.warm_start`. Raises UserError where the teacher has not come as far, or
    its checkpoint was pruned.
    """
    base = _base(run, name, first_day)
    teacher = Trainer.of_teacher(run)
    teacher.restore(run.checkpoints(run.teacher_model), base)
    theirs = _parts(teacher)
    taken, anew, dense_anew = [], [], False
    for path, (variable, rows) in _parts(trainer).items():
        other, other_rows = theirs.get(path, (None, rows))
        shape, there = _shape(variable, rows), None if other is None else _shape(other, other_rows)
        if shape == there:
            own, values = ([v, *of.slots(v)] for of, v in ((trainer, variable), (teacher, other)))
            for to, value in zip(own, values, strict=True):
                to[rows].assign(value[other_rows])
            taken.append(path)
        else:
            anew.append({"name": path, "shape": shape, "teacher": there})
            dense_anew |= variable is not trainer.sparse[0]
    trainer.started_from = base.id
    _take_ids(trainer, teacher, taken)
    if not dense_anew:
        trainer.adam.iterations.assign(teacher.adam.iterations)
        trainer.adagrad.iterations.assign(teacher.adagrad.iterations)
    found = {"teacher": run.teacher.name, "day": str(base.day), "taken": taken, "anew": anew}
    with atomic_write(run.warm_start(successor_model(name))) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n")


def _take_ids(trainer: Trainer, teacher: Trainer, taken: Sequence[str]) -> None:
    """Which ids have a row, of the growing features whose rows were taken: a row is nothing without its id."""
    if trainer.vocabulary and teacher.vocabulary:
        known = {
            name: frame for name, frame in teacher.vocabulary.known.items() if f"embeddings/{name}" in taken
        }
        trainer.set_vocabulary(Vocabulary(trainer.vocabulary.id_map, {**trainer.vocabulary.known, **known}))


def _base(run: Run, name: str, first_day: date) -> State:
    before = first_day - timedelta(days=run.schema.slice_days)
    states = run.checkpoints(run.teacher_model).states()
    earlier = [state for state in states if state.day < first_day]
    skipped = run.skipped(run.teacher_model)
    if not earlier or before not in {*(state.day for state in earlier), *skipped}:
        have = f"{states[0].day} to {states[-1].day}" if states else "no day"
        raise UserError(
            f"successor {name!r} starts from what {run.teacher_model} had learnt before {first_day}, and that has "
            f"learnt {have}; let it learn {before} first, or give another first_day, or none to start with nothing"
        )
    if earlier[-1].pruned:
        left = next(state.day for state in states if not state.pruned)
        raise UserError(
            f"successor {name!r} starts from what {run.teacher_model} had learnt before {first_day}, and its "
            f"checkpoint of {earlier[-1].day} was pruned; give a first_day after {left}, or none to start with nothing"
        )
    return earlier[-1]


def _parts(trainer: Trainer) -> dict[str, tuple[tf.Variable, slice]]:
    """What is taken or not, by name: a variable, and which of its rows.

    A dense variable is named by its path in the checkpoint (`models.network.by_path`).
    """
    ranker = trainer.ranker
    dense = {id(variable) for variable in trainer.dense}
    parts: dict[str, tuple[tf.Variable, slice]] = {
        path: (variable, slice(None))
        for path, variable in by_path(ranker.checkpoint_view).items()
        if id(variable) in dense
    }
    for feature in ranker.embedded:
        if feature.name not in ranker.of:
            first = ranker.id_map.offsets[feature.name]
            parts[f"embeddings/{feature.name}"] = trainer.sparse[0], slice(first, first + feature.embeddings)
    return parts


def _shape(variable: tf.Variable, rows: slice) -> list[int]:
    return [len(range(variable.shape[0])[rows]), *variable.shape[1:]]
