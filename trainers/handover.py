"""A change of teacher, all of it: comparing, deciding, recording, describing, and starting a successor warm.

A successor is trained beside the teacher. Once its losses on days that neither had seen are as good, it takes over:
students read its labels from then on. `takeovers.json` in the workdir records each change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import json_object, read_json, write_json
from tutelage.pipeline.io.printable import counted
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.config import StudentConfig, SuccessorConfig

if TYPE_CHECKING:  # every command reads takeovers.json, and TensorFlow takes seconds to import
    import tensorflow as tf

    from tutelage.trainers.checkpoints import State
    from tutelage.trainers.run import Run
    from tutelage.trainers.trainer import Trainer

FILE = "takeovers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeller:
    """A teacher whose labels students read."""

    model: str
    """Its name in folders, in `metrics` and on command lines."""
    name: str
    """Partition of `soft_labels`."""
    min_examples: int
    """Labels made before it was trained on this many examples are masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """One teacher took the place of another."""

    before: Labeller
    """The teacher whose labels students read of the days before `from_day`."""
    name: str
    """Name of the new teacher."""
    teacher: Mapping[str, Any]
    """The new teacher's config as JSON."""
    first_day: date | None
    """The first day that the new teacher is trained on; None: the first of all."""
    judged: Sequence[date]
    """The days that decided it."""
    checks: Sequence[Mapping[str, Any]]
    """What was compared: name, both values, the worst that passes."""
    from_day: date
    """Students read the new teacher's labels from this day on."""
    decided_at: str
    """UTC."""


def read_takeovers(root: Path) -> tuple[TakeOver, ...]:
    """Return the changes of teacher that the workdir `root` has seen, the oldest first."""
    path = root / FILE
    if not path.exists():
        return ()
    changes: tuple[TakeOver, ...] = read_json(
        path, lambda recorded: tuple(map(_take_over, recorded)), mend=_MEND
    )
    return changes


_MEND = (
    "restore it from a backup, or remove it with the former teacher as the config's teacher and the later one as its "
    "successor: tutelage-run decides the change again, and makes anew what was made from other labels"
)


def _take_over(recorded: Mapping[str, Any]) -> TakeOver:
    first_day = recorded["first_day"]
    return TakeOver(
        **{
            **recorded,
            "before": Labeller(**recorded["before"]),
            "teacher": json_object(recorded["teacher"]),
            "first_day": first_day and date.fromisoformat(first_day),
            "judged": [date.fromisoformat(day) for day in recorded["judged"]],
            "from_day": date.fromisoformat(recorded["from_day"]),
        }
    )


def write_takeovers(root: Path, takeovers: Sequence[TakeOver]) -> None:
    """Replace the recorded changes of teacher."""
    write_json(root / FILE, [asdict(each) for each in takeovers])


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A successor beside the teacher, on some days."""

    days: Sequence[date]
    verdict: Verdict


def take_over(
    run: Run,
    successor: SuccessorConfig,
    students: Sequence[StudentConfig],
    *,
    teacher: Mapping[str, Any],
    locked: Callable[[str], AbstractContextManager[object]],
) -> TakeOver | None:
    """Record that the successor takes the teacher's place if it is as good; return the record, or None.

    `teacher` is the successor's config as JSON. `locked` holds the lock of a student by its name.
    """
    if not _as_good(compare(run, successor, students)):
        return None
    with ExitStack() as locks:
        # No student may be trained on the old labels while it is decided from which day on it reads the new ones.
        for student in students:
            locks.enter_context(locked(student.name))
        found = compare(run, successor, students)
        if found is None or not _as_good(found) or read_takeovers(run.root) != run.takeovers:
            return None  # a student was trained, or another process decided, in the meantime
        day = found.days[-1] + timedelta(days=run.schema.slice_days)
        change = TakeOver(
            before=run.labeller(day),
            name=successor.teacher.name,
            teacher=teacher,
            first_day=successor.first_day,
            judged=found.days,
            checks=[asdict(check) for check in found.verdict.checks],
            from_day=day,
            decided_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        )
        write_takeovers(run.root, [*run.takeovers, change])
    return change


def _as_good(found: Comparison | None) -> bool:
    return found is not None and found.verdict.blessed


def compare(
    run: Run, successor: SuccessorConfig, students: Sequence[StudentConfig] = ()
) -> Comparison | None:
    """Return the first comparison by which the successor takes over, else the last one; None: too few days.

    There is one comparison after each day that both teachers were trained on, of the `judged_days` up to it: for
    each task the plain mean of the losses of scores made before any of a day was trained on. It ends no earlier than
    the days that students were trained on with the teacher's labels, and the day from which the teacher itself
    labels: what is decided holds for later days.
    """
    models = {"reference": run.teacher_model, "value": run.of_successor(successor.teacher).teacher_model}
    # An untrained model made the scores ahead of its first day.
    trained = [{state.day for state in run.checkpoints(model).states()[1:]} for model in models.values()]
    # A task that is new to the teachers has no loss of the old one.
    without = {*run.teacher.model.without, *successor.teacher.model.without}
    tasks = run.schema.for_model(without).tasks
    wanted = pl.DataFrame(
        {"task": [task.name for task in tasks], "metric": [kind_of(task).loss_name for task in tasks]}
    )
    losses = (
        run.lake.metrics.scan(run=run.name, basis="day_ahead", slice="")
        .filter(pl.col("day").is_in(sorted(set.intersection(*trained))))
        .join(wanted.lazy(), on=["task", "metric"])
        .select("model", "day", "task", "value")
        .collect()
    )
    value, reference = (losses.filter(model=models[name]).drop("model") for name in ("value", "reference"))
    both = value.join(reference.rename({"value": "reference"}), on=["day", "task"])
    complete = both.group_by("day").len().filter(len=wanted.height)["day"].sort().to_list()
    since = _labels_used_until(run, students)
    found = None
    for n, day in enumerate(complete, 1):
        if n < successor.judged_days or (since and day < since):
            continue
        days = complete[n - successor.judged_days : n]
        means = both.filter(pl.col("day").is_in(days)).group_by("task").mean()
        found = Comparison(days=days, verdict=_verdict(wanted, means, successor.margin))
        if found.verdict.blessed:
            break
    return found


def _labels_used_until(run: Run, students: Sequence[StudentConfig]) -> date | None:
    """Return the last day that a student was trained on, or from which the teacher labels; None: there is none."""
    days = [
        state.day
        for student in students
        if student.distillation
        for state in run.checkpoints(student.name).states()[-1:]
    ]
    return max([*days, *(change.from_day for change in run.takeovers[-1:])], default=None)


def _verdict(wanted: pl.DataFrame, means: pl.DataFrame, margin: float) -> Verdict:
    checks = []
    for task, metric, value, reference in (
        wanted.join(means, on="task", maintain_order="left")
        .select("task", "metric", "value", "reference")
        .iter_rows()
    ):
        # If the teacher's own loss is not finite, nothing shows that the successor is as good.
        bound = reference + margin * reference
        checks.append(
            Check(
                name=f"{task} {metric}",
                value=value,
                reference=reference,
                bound=bound,
                passed=math.isfinite(value) and value <= bound,
            )
        )
    passed = all(check.passed for check in checks)
    return Verdict(verdict="pass" if passed else "fail", checks=tuple(checks))


def describe(run: Run, successor: SuccessorConfig | None, students: Sequence[StudentConfig]) -> list[str]:
    """Return a line for each change of teacher, and one for a successor that has not taken over."""
    lines = [
        f"{change.name} took over from {change.before.name}: students read its labels from {change.from_day} on "
        f"({_compared(change.checks)}; {_days(change.judged)}; decided {change.decided_at} UTC)"
        for change in run.takeovers
    ]
    if successor:
        why = _why_not_yet(compare(run, successor, students), successor)
        lines.append(f"{successor.teacher.name} is trained beside {run.teacher.name}, which labels ({why})")
    return lines


def _why_not_yet(found: Comparison | None, successor: SuccessorConfig) -> str:
    if found is None:
        return (
            f"not compared yet: that takes {counted(successor.judged_days, 'day')} that both were trained on"
        )
    if found.verdict.blessed:
        return "it is as good, and takes over in the next tutelage-run"
    worse = [check for check in found.verdict.checks if not check.passed]
    return f"not as good: {_compared(map(asdict, worse))}; {_days(found.days)}"


def _compared(checks: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{each['name']} {each['value']:.4f} against {each['reference']:.4f}, up to {each['bound']:.4f} passes"
        for each in checks
    )


def _days(days: Sequence[date]) -> str:
    return f"mean of {len(days)} days to {days[-1]}" if len(days) > 1 else f"on {days[-1]}"


def describe_start(run: Run, model: str) -> str | None:
    """Return a line on what a successor started with; None if it started from nothing."""
    path = run.warm_start(model)
    if not path.exists():
        return None
    found = read_json(
        path, json_object, mend="restore it from a backup, or remove it: it only tells of the start"
    )
    anew = [
        f"{each['name']} {each['shape']}" + (f" (there {each['teacher']})" if each["teacher"] else "")
        for each in found["anew"]
    ]
    return (
        f"{model}: starts with {len(found['taken'])} variables of {found['teacher']}'s after {found['day']}; "
        f"from scratch: {', '.join(anew) or 'none'}"
    )


def warm_start(trainer: Trainer, teacher: Trainer, run: Run, successor: SuccessorConfig) -> None:
    """Copy what matches from the teacher's state before the successor's first day into `trainer`.

    Both trainers are untrained; `run` is that of the present teacher. A variable matches by its name in the model
    and its shape, and its optimizer slots are copied with it. The embedding table is copied feature by feature; the
    vocabulary of a growing feature comes along with its embeddings. Where any dense variable starts from scratch, the
    counts of updates do too, because Adam's bias correction is for averages that begin at 0; the copied variables
    then move more slowly for about 1,000 updates.

    `Run.warm_start` records what became of each variable. Raises UserError where the teacher was not trained up to
    the day before, or where that checkpoint was pruned.
    """
    base = _base(run, successor)
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
    trainer.warm_started_from = base.id
    _copy_vocabulary(trainer, teacher, taken)
    if not dense_anew:
        trainer.adam.iterations.assign(teacher.adam.iterations)
        trainer.adagrad.iterations.assign(teacher.adagrad.iterations)
    found = {"teacher": run.teacher.name, "day": str(base.day), "taken": taken, "anew": anew}
    write_json(run.warm_start(run.of_successor(successor.teacher).teacher_model), found)


def _base(run: Run, successor: SuccessorConfig) -> State:
    """Return the teacher's state on the day before the successor's first, skipped days aside."""
    first_day = successor.first_day
    assert first_day
    before = first_day - timedelta(days=run.schema.slice_days)
    states = run.checkpoints(run.teacher_model).states()
    earlier = [state for state in states if state.day < first_day]
    skipped = run.skipped(run.teacher_model)
    who = f"successor {successor.teacher.name!r} starts from the state of {run.teacher_model} before {first_day}"
    if not earlier or before not in {*(state.day for state in earlier), *skipped}:
        have = f"{states[0].day} to {states[-1].day}" if states else "no day"
        raise UserError(
            f"{who}, which was trained on {have}; train it on {before} first, or give another first_day, or none to "
            "start with nothing"
        )
    if earlier[-1].pruned:
        left = next(state.day for state in states if not state.pruned)
        raise UserError(
            f"{who}, and its checkpoint of {earlier[-1].day} was pruned; give a first_day after {left}, or none to "
            "start with nothing"
        )
    return earlier[-1]


def _parts(trainer: Trainer) -> dict[str, tuple[tf.Variable, slice]]:
    """Return by name what is copied or not: a variable, and the slice of its first axis.

    A dense variable is named by its path in the checkpoint (`models.network.by_path`). The embeddings of each feature
    are a part of the table.
    """
    from tutelage.models.network import by_path

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


def _copy_vocabulary(trainer: Trainer, teacher: Trainer, taken: Sequence[str]) -> None:
    """Copy the ids of growing features whose embeddings were copied: an embedding is worth nothing without its id."""
    if trainer.vocabulary and teacher.vocabulary:
        known = {
            name: frame for name, frame in teacher.vocabulary.known.items() if f"embeddings/{name}" in taken
        }
        trainer.set_vocabulary(trainer.vocabulary.with_known(known))
