"""The day loop over three days: each is labelled, then trained on once, and a killed day ends the same."""

import dataclasses
import functools
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from polars.testing import assert_frame_equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny import AUXILIARY, BATCH, DAYS, MODEL, ROWS, SCHEMA, commit, interactions, judged, make_run
from tutelage.models.config import distil
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.soft_labels import LabelPartition
from tutelage.trainers import checkpoints
from tutelage.trainers.checkpoints import Checkpoints, State
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.feed import Feed
from tutelage.trainers.metrics import day_metrics
from tutelage.trainers.run import TEACHER, Run
from tutelage.trainers.trainer import Trainer

# Two batches, 32 rows, are the first that are 30 rows or more.
YOUNG, YOUNG_ROWS = 30, 32


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A workdir whose teacher was trained on the three days in one call. No test changes the teacher's files."""
    run = make_run(tmp_path_factory.mktemp("taught"), min_examples=YOUNG)
    assert [state.day for state in train_teacher(run, DAYS)] == DAYS
    return run


@pytest.fixture(scope="module")
def distilled(taught: Run) -> Run:
    """The same with an auxiliary student of these three days."""
    train_student(taught, AUXILIARY, DAYS)
    return taught


@pytest.fixture(scope="module")
def in_calls(tmp_path_factory: pytest.TempPathFactory) -> dict[date, Run]:
    """The teacher after each day, trained in a call for each day."""
    run = make_run(tmp_path_factory.mktemp("in_calls"), min_examples=YOUNG)
    after = {}
    for day in DAYS:
        assert [state.day for state in train_teacher(run, [day])] == [day]
        after[day] = _copy(run, tmp_path_factory.mktemp(str(day)))
    return after


def _copy(run: Run, to: Path) -> Run:
    return dataclasses.replace(run, root=shutil.copytree(run.root, to / "w"))


DIRECT = distil("click", "watch", through="direct")


@functools.cache
def _cached_trainer(kept_for: str) -> Trainer:
    """Return one of two trainers that are kept, because building one takes longer than a day of training."""
    return Trainer(SCHEMA, MODEL, batch_size=BATCH, seed=1)


def _untrained() -> Trainer:
    return _cached_trainer("untrained")


def _restored(run: Run, state: State) -> Trainer:
    trainer = _cached_trainer("restored")
    trainer.restore(run.checkpoints(TEACHER), state)
    return trainer


def _labels(run: Run, day: date) -> pl.DataFrame:
    return run.lake.soft_labels.scan(teacher="teacher", producer="pre_update", day=day).collect()


def _metrics(run: Run, model: str) -> pl.DataFrame:
    return run.lake.metrics.scan(model=model).sort("day", "basis", "task", "metric").collect()


def _qualities(run: Run, model: str) -> pl.DataFrame:
    """Return the metrics without the verdicts of the gate."""
    return _metrics(run, model).filter(pl.col("basis").is_in(["day_ahead", "pre_update"]))


def _counts(run: Run, model: str, day: date) -> dict[str, float]:
    """Return the counts of soft labels that a student reported for a day."""
    rows = _metrics(run, model).filter(day=day, task="", basis="pre_update")
    assert (rows["rows"] == ROWS[day]).all()
    return dict(rows.select("metric", "value").iter_rows())


def _tensors(run: Run, model: str, day: date) -> dict[str, np.ndarray]:
    """Return every tensor of the day's checkpoint."""
    reader = tf.train.load_checkpoint(str(run.checkpoints(model).folder / str(day) / "variables"))
    return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}


def _counted(states: list[State]) -> list[tuple[date, int, int, int]]:
    return [(state.day, state.step, state.examples, state.rows) for state in states]


def _differing(a: Run, model: str, b: Run, other: str) -> list[str]:
    """Return the days and names of variables that differ between the checkpoints of two models."""
    states = _counted(a.checkpoints(model).states())
    assert states
    assert states == _counted(b.checkpoints(other).states())
    names = []
    for day, *_ in states:
        one, two = _tensors(a, model, day), _tensors(b, other, day)
        assert one.keys() == two.keys()
        names += [f"{day} {name}" for name in one if not np.array_equal(one[name], two[name])]
    return names


def _assert_same_teacher(a: Run, b: Run) -> None:
    assert _differing(a, TEACHER, b, TEACHER) == []
    for day in DAYS:
        assert_frame_equal(
            _labels(a, day).sort("example_id"), _labels(b, day).sort("example_id"), check_exact=True
        )
    assert_frame_equal(_metrics(a, TEACHER), _metrics(b, TEACHER), check_exact=True)


def test_a_day_is_trained_on_once(taught: Run) -> None:
    # 60, 57 and 64 rows in batches of 16 are four updates each.
    states = taught.checkpoints(TEACHER).states()
    assert _counted(states) == [(DAYS[0], 4, 60, 60), (DAYS[1], 8, 117, 57), (DAYS[2], 12, 181, 64)]
    labels = [_labels(taught, day) for day in DAYS]
    rows: list[int] = []
    assert train_teacher(taught, DAYS, progress=rows.append) == []
    assert rows == []
    assert taught.checkpoints(TEACHER).states() == states
    assert all(a.equals(_labels(taught, day)) for a, day in zip(labels, DAYS, strict=True))


def test_a_day_s_memory_is_what_the_process_held_after_it_not_the_most_it_ever_did(tmp_path: Path) -> None:
    run, held = make_run(tmp_path), 400_000_000
    (before,) = train_teacher(run, DAYS[:1])
    ballast = np.ones(held, np.int8)
    (during,) = train_teacher(run, DAYS[:2])
    del ballast
    (after,) = train_teacher(run, DAYS)
    assert during.memory == pytest.approx(before.memory + held, abs=held / 2)
    assert after.memory == pytest.approx(before.memory, abs=held / 2)


def test_a_checkpoint_s_size_is_that_of_its_variables_files(taught: Run) -> None:
    folder = taught.checkpoints(TEACHER).folder
    for state in taught.checkpoints(TEACHER).states():
        assert state.size == sum(
            path.stat().st_size for path in (folder / str(state.day)).glob("variables.*")
        )
        assert state.size > 1000


def test_every_example_gets_a_label_of_a_teacher_that_was_not_trained_on_it(taught: Run) -> None:
    for n, day in enumerate(DAYS):
        labels = _labels(taught, day)
        assert sorted(labels["example_id"]) == sorted(interactions(day)["example_id"])
        assert (labels["trained_step"] == labels["teacher_step"] + 1).all()
        rows = [16, 16, 16, ROWS[day] - 48]
        assert sorted(labels["teacher_step"]) == np.arange(4 * n, 4 * n + 4).repeat(rows).tolist()
        assert labels["snapshot_day"].unique().to_list() == [DAYS[n - 1] if n else None]


@pytest.mark.parametrize("n", [0, 1])
def test_a_day_s_first_labels_are_the_scores_of_the_last_checkpoint(taught: Run, n: int) -> None:
    trainer = _restored(taught, taught.checkpoints(TEACHER).states()[n - 1]) if n else _untrained()
    day = Feed(taught.lake, trainer.transform).read(DAYS[n])
    ahead = trainer.score(day)
    order = pl.DataFrame({"example_id": day.whole.example_id})
    labels = order.join(_labels(taught, DAYS[n]), on="example_id", how="left", maintain_order="left")
    for name in taught.schema.outputs:
        label, score = labels[name].to_numpy(), ahead[name]
        np.testing.assert_allclose(label[:BATCH], score[:BATCH], rtol=1e-5, atol=1e-6)
        # After that none is: by then the teacher had been updated.
        assert not np.isclose(label[BATCH:], score[BATCH:], rtol=1e-5, atol=1e-6).any()


def test_the_first_day_s_scores_ahead_are_an_untrained_model_s(taught: Run) -> None:
    trainer = _untrained()
    day = Feed(taught.lake, trainer.transform).read(DAYS[0])
    expected = day_metrics(taught.schema, judged(day).targets, trainer.score(day), basis="day_ahead")
    rows = _metrics(taught, TEACHER).filter(day=DAYS[0])
    key = ["task", "metric", "value", "rows"]
    ahead = rows.filter(basis="day_ahead").select(key)
    assert_frame_equal(ahead, pl.DataFrame(expected).select(key), check_row_order=False, check_exact=True)
    # The forward passes of later batches came after updates by earlier ones.
    before = rows.filter(basis="pre_update").select(key)
    assert before.height == ahead.height == 8
    assert not ahead.equals(before)


def test_days_trained_on_in_separate_calls_end_as_in_one_call(taught: Run, in_calls: dict[date, Run]) -> None:
    _assert_same_teacher(taught, in_calls[DAYS[2]])


def test_a_day_killed_during_training_is_trained_on_again_with_the_same_result(
    taught: Run, tmp_path: Path
) -> None:
    run = make_run(tmp_path, min_examples=YOUNG)
    trained: list[int] = []

    def kill(rows: int) -> None:
        trained.append(rows)
        if sum(trained) > ROWS[DAYS[0]] + 2 * BATCH:
            raise Killed

    with pytest.raises(Killed):
        train_teacher(run, DAYS, progress=kill)
    assert _counted(run.checkpoints(TEACHER).states()) == [(DAYS[0], 4, 60, 60)]
    assert _labels(run, DAYS[1]).is_empty()
    assert [state.day for state in train_teacher(run, DAYS)] == DAYS[1:]
    _assert_same_teacher(taught, run)


def test_a_day_killed_between_labels_and_checkpoint_is_trained_on_again_with_the_same_result(
    taught: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, min_examples=YOUNG)
    save = Checkpoints.save

    def kill(self: Checkpoints, checkpoint: tf.train.Checkpoint, state: State) -> State:
        if state.day == DAYS[1]:
            raise Killed
        return save(self, checkpoint, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", kill)
        with pytest.raises(Killed):
            train_teacher(run, DAYS)
    assert [state.day for state in run.checkpoints(TEACHER).states()] == DAYS[:1]
    assert _labels(run, DAYS[1]).height == ROWS[DAYS[1]]
    assert [state.day for state in train_teacher(run, DAYS)] == DAYS[1:]
    _assert_same_teacher(taught, run)


@pytest.mark.parametrize("damage", ["a byte", "the end", "a file"])
def test_a_damaged_last_checkpoint_is_warned_of_and_its_day_trained_on_again_with_the_same_result(
    taught: Run,
    in_calls: dict[date, Run],
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = _copy(in_calls[DAYS[1]], tmp_path)
    folder = run.checkpoints(TEACHER).folder
    (data,) = (folder / str(DAYS[1])).glob("variables.data*")
    if damage == "a file":
        data.unlink()
    else:
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content if damage == "a byte" else content[:-1])
    assert [state.day for state in train_teacher(run, DAYS)] == DAYS[1:]
    assert caplog.messages == [
        "teacher: the checkpoint of 2026-01-02 is damaged; going on from the day before it"
    ]
    _assert_same_teacher(taught, run)
    assert (folder / ".damaged-2026-01-02").is_dir()


@pytest.mark.parametrize("torn", ["zero", "half", "missing"])
def test_a_checkpoint_with_a_torn_state_is_told_and_its_day_trained_on_again_with_the_same_result(
    taught: Run, in_calls: dict[date, Run], tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = _copy(in_calls[DAYS[1]], tmp_path)
    state = run.checkpoints(TEACHER).folder / "2026-01-02/state.json"
    content = state.read_bytes()
    state.unlink()
    if torn != "missing":
        state.write_bytes(content[: len(content) // 2] if torn == "half" else b"")
    assert [each.day for each in train_teacher(run, DAYS)] == DAYS[1:]
    named, damaged = caplog.messages
    assert named.startswith(f"{state} ")
    assert damaged == "teacher: the checkpoint of 2026-01-02 is damaged; going on from the day before it"
    _assert_same_teacher(taught, run)


def test_the_last_checkpoint_is_hashed_once_when_training_continues(
    in_calls: dict[date, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _copy(in_calls[DAYS[0]], tmp_path)
    hashed: list[str] = []
    sha256 = checkpoints.sha256_of

    def recording(folder: Path) -> str:
        hashed.append(folder.name)
        return sha256(folder)

    monkeypatch.setattr(checkpoints, "sha256_of", recording)
    train_teacher(run, DAYS[:2])
    assert [name for name in hashed if not name.startswith(".")] == ["2026-01-01"]


def test_a_damaged_checkpoint_is_not_exported(in_calls: dict[date, Run], tmp_path: Path) -> None:
    run = _copy(in_calls[DAYS[1]], tmp_path)
    (run.checkpoints(TEACHER).folder / "2026-01-01/variables.index").write_bytes(b"")
    with pytest.raises(UserError, match=r"^the checkpoint of 2026-01-01 in .* is damaged"):
        _restored(run, run.checkpoints(TEACHER).states()[0])


def test_a_student_with_a_first_day_starts_there(taught: Run) -> None:
    late = StudentConfig(name="late", model=MODEL, first_day=DAYS[1])
    states = train_student(taught, late, DAYS)
    assert _counted(states) == [(DAYS[1], 4, 57, 57), (DAYS[2], 8, 121, 64)]
    assert _metrics(taught, "late")["day"].unique().sort().to_list() == DAYS[1:]


def test_the_label_of_every_example_is_used_too_young_or_missing(taught: Run, tmp_path: Path) -> None:
    run = _copy(taught, tmp_path)
    five_less = _labels(run, DAYS[1]).sort("example_id")[5:].drop("teacher", "producer", "day")
    run.lake.soft_labels.write(LabelPartition("teacher", "pre_update", DAYS[1]), five_less)
    train_student(run, dataclasses.replace(AUXILIARY, name="fewer"), DAYS)
    assert _counts(run, "fewer", DAYS[0]) == {
        "labels_used": 60 - YOUNG_ROWS,
        "teacher_too_young": YOUNG_ROWS,
        "labels_missing": 0,
        "label_coverage": (60 - YOUNG_ROWS) / 60,
    }
    assert _counts(run, "fewer", DAYS[1]) == {
        "labels_used": 52,
        "teacher_too_young": 0,
        "labels_missing": 5,
        "label_coverage": 52 / 57,
    }
    assert _counts(run, "fewer", DAYS[2])["label_coverage"] == 1


def test_a_student_without_soft_labels_is_trained_on_hard_ones_alone(taught: Run) -> None:
    # `direct` has no auxiliary tower, so that all variables can be compared.
    def student(name: str, **fields: object) -> str:
        train_student(taught, StudentConfig(name=name, model=MODEL, **fields), DAYS[:1])  # type: ignore[arg-type]
        return name

    hard_only = student("hard_only")
    unlabelled = student("unlabelled", distillation=DIRECT, producer="snapshot")
    labelled = student("labelled", distillation=DIRECT)
    assert _counts(taught, hard_only, DAYS[0]) == {}
    assert _counts(taught, unlabelled, DAYS[0]) == {
        "labels_used": 0,
        "teacher_too_young": 0,
        "labels_missing": 60,
        "label_coverage": 0,
    }
    assert _differing(taught, unlabelled, taught, hard_only) == []
    assert _differing(taught, labelled, taught, hard_only) != []


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_day_whose_loss_is_no_number_is_refused_and_not_kept(value: float, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    # A label reaches the loss whatever the processor's kernels make of NaN (a fused ReLU may make it 0).
    # The 41st row of the day is in its third batch, and the first day was four: step 4 + 2.
    rows = interactions(DAYS[1]).sort("event_time_us", "example_id").with_row_index()
    watched = pl.when(pl.col("index") == 40).then(value).otherwise(pl.col("watch_seconds"))
    rows = rows.with_columns(watch_seconds=watched.cast(pl.Float32)).drop("index")
    commit(run.lake, DAYS[1], rows, attempt=2)
    says = (
        r"^teacher: 2026-01-02 did not pass its gate and is not kept: fail; losses that are not finite: 2 of 4, "
        r"from step 6 on; outputs .* Correct the day and materialise it again, or let the model skip or retry such a "
        r"day \(on_failure of its gate\)$"
    )
    with pytest.raises(UserError, match=says):
        train_teacher(run, DAYS)
    assert [path.name for path in run.checkpoints(TEACHER).folder.iterdir()] == ["2026-01-01"]
    assert _labels(run, DAYS[1]).is_empty()
    verdict = _metrics(run, TEACHER).filter(day=DAYS[1])
    assert verdict["basis"].unique().to_list() == ["day_gate"]
    assert verdict.filter(metric="blessed")["value"].to_list() == [0]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 3e38, -3e38])
def test_a_number_that_is_not_finite_or_absurd_counts_as_missing(value: float, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("odd", "missing")]
    for run, number in zip(runs, (value, None), strict=True):
        rows = interactions(DAYS[0]).with_columns(
            pl.when(pl.int_range(pl.len()).is_in([3, 17, 40]))
            .then(number)
            .otherwise(name)
            .cast(pl.Float32)
            .alias(name)
            for name in ("seconds", "age")
        )
        commit(run.lake, DAYS[0], rows, attempt=2)
        train_teacher(run, DAYS[:1])
    assert _differing(runs[0], TEACHER, runs[1], TEACHER) == []


def test_tensorboard_shows_every_metric_of_every_day(distilled: Run) -> None:
    tags = {
        f"{basis}/{metric}"
        for basis in ("day_ahead", "pre_update")
        for metric in (
            "click/auc",
            "click/pr_auc",
            "click/log_loss",
            "click/normalized_entropy",
            "click/calibration",
            "watch/ltv_loss",
            "watch/relative_squared_error",
            "watch/rmse",
        )
    }
    labels = {"labels_used", "teacher_too_young", "labels_missing", "label_coverage"}
    expected = {TEACHER: tags, "auxiliary": tags | {f"pre_update/{name}" for name in labels}}
    for model, names in expected.items():
        events = EventAccumulator(str(distilled.report / "tensorboard" / model)).Reload()
        assert set(events.Tags()["tensors"]) == names
        metrics = _qualities(distilled, model)
        assert metrics.height == 3 * len(names)
        for name in names:
            basis, *task, metric = name.split("/")
            shown = events.Tensors(name)
            assert [event.step for event in shown] == [20260101, 20260102, 20260103]
            values = [float(tf.make_ndarray(event.tensor_proto)) for event in shown]
            where = {"basis": basis, "task": task[0] if task else "", "metric": metric}
            np.testing.assert_allclose(values, metrics.filter(**where)["value"], rtol=1e-6)
