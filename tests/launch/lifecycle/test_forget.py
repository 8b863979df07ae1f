"""A forgotten user is in no Parquet file of the workdir, other rows stay, and models trained on it are listed."""

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal
from tensorflow_serving.apis import prediction_log_pb2

from tests.launch import small
from tutelage.export import card, golden, warmup
from tutelage.launch import locks, steps
from tutelage.launch.actions.forget import forget as forget_command
from tutelage.launch.lifecycle import forget
from tutelage.launch.report.data import day_counts
from tutelage.launch.session import Session
from tutelage.pipeline.beam_job import staging_folder
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.table import Table
from tutelage.trainers.day_loop import write_predictions
from tutelage.trainers.handover import TakeOver, write_takeovers

DAYS = small.DAYS[:4]
LATER, GONE = DAYS[2:], 7
"""The user, with 5 rows on each day from the third on."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train four days: the teacher and the control on all, the distilled student on two, the late one on the last."""
    workdir = tmp_path_factory.mktemp("made") / "w"
    session = small.materialize(workdir, end_day=str(DAYS[-1]))
    small.train(session, "teacher", DAYS)
    for state in small.train(session, "control", DAYS):
        small.publish(session, "control", state, rejected=state.day == DAYS[3])
    small.train(session, "auxiliary", DAYS[:2])
    small.train(session, "late", DAYS[3:])
    for day in DAYS:
        ids = session.run.lake.interactions.scan(day=day).collect()["example_id"].to_numpy()
        scores = pl.DataFrame({"example_id": ids, "click_logit": np.zeros(len(ids))})
        write_predictions([scores], session.run.predictions("control", day))
    sums = pl.DataFrame({"user": [0, GONE], "task": "click", "loss": [1.0, 2.0]})
    (workdir / "study/units/base-1").mkdir(parents=True)
    sums.write_parquet(workdir / "study/units/base-1/sums.parquet")
    return workdir


@pytest.fixture
def workdir(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "w")
    return tmp_path / "w"


def _open(workdir: Path) -> Session:
    return small.open_session(workdir)


def _forget(workdir: Path, user: str = str(GONE), **asked: Any) -> None:
    forget_command(small.open_session(workdir), user_id=user, **asked)


def _holders(workdir: Path) -> list[str]:
    """Every Parquet file that has the user, or a row whose user it is, by its path in the workdir."""
    found = []
    raw = (
        pl.read_parquet(workdir.parent / "ids.parquet") if (workdir.parent / "ids.parquet").exists() else None
    )
    for path in workdir.rglob("*.parquet"):
        frame = pl.read_parquet(path)
        users = [name for name in ("user_id", "user") if name in frame.columns]
        its = any(GONE in frame[name].to_list() for name in users)
        rows = raw is not None and "example_id" in frame.columns
        if its or (rows and frame["example_id"].is_in(raw["example_id"].implode()).any()):  # type: ignore[index]
            found.append(str(path.relative_to(workdir)))
    return found


def _note_ids(workdir: Path) -> None:
    """Remember which rows are the user's, for `_holders` afterwards."""
    rows = _open(workdir).run.lake.interactions.scan().filter(pl.col("user_id") == GONE)
    rows.select("example_id").collect().write_parquet(workdir.parent / "ids.parquet")


def _tables(workdir: Path) -> dict[str, pl.DataFrame]:
    names = ("interactions", "histories", "soft_labels", "metrics")
    frames = {name: pl.read_delta(str(workdir / "lake" / name)) for name in names}
    return {name: frame.sort(sorted(set(frame.columns) - {"seen"})) for name, frame in frames.items()}


def test_no_parquet_file_has_the_user_and_all_other_rows_are_as_they_were(workdir: Path) -> None:
    _note_ids(workdir)
    before = _tables(workdir)
    kinds = {path.split("/")[0] for path in _holders(workdir)}
    assert kinds == {"lake", "export", "rejected", "students", "study"}
    _forget(workdir)
    assert _holders(workdir) == []
    after = _tables(workdir)
    ids = pl.read_parquet(workdir.parent / "ids.parquet")["example_id"]
    assert len(ids) == 10
    for name, frame in before.items():
        whose = pl.col("user_id") == GONE if "user_id" in frame.columns else pl.lit(False)
        its = pl.col("example_id").is_in(ids.implode()) if "example_id" in frame.columns else pl.lit(False)
        assert_frame_equal(after[name], frame.filter(~whose & ~its))
    assert [frame.height for frame in after.values()] == [150, 28, 150, 0]
    sums = pl.read_parquet(workdir / "study/units/base-1/sums.parquet")
    assert sums.rows() == [(0, "click", 1.0)]


def test_rows_in_are_still_kept_and_dropped_ones(workdir: Path) -> None:
    _forget(workdir)
    counts = day_counts(_open(workdir)).select("rows_in", "kept", "reason", "dropped").rows()
    assert counts == [(40, 40, None, 0)] * 2 + [(40, 35, "forgotten", 5)] * 2
    _forget(workdir, "6")
    counts = day_counts(_open(workdir)).select("rows_in", "kept", "reason", "dropped").rows()
    assert counts == [(40, 35, "forgotten", 5)] * 2 + [(40, 30, "forgotten", 10)] * 2


def test_nothing_is_to_be_made_again_of_what_is_left(workdir: Path) -> None:
    attempts = _open(workdir).run.lake.interactions.attempts(DAYS)
    _forget(workdir)
    lake = _open(workdir).run.lake
    assert lake.interactions.attempts(DAYS) == attempts
    assert lake.stale_histories(DAYS) == []
    assert steps.to_materialize(_open(workdir)) == [small.DAYS[4]]


def test_the_log_of_the_tables_names_no_user(workdir: Path) -> None:
    _forget(workdir, "0")
    _forget(workdir)
    for table in ("interactions", "histories"):
        for path in (workdir / "lake" / table / "_delta_log").glob("*.json"):
            adds = [json.loads(line) for line in path.read_text().splitlines()]
            stats = [json.loads(line["add"]["stats"]) for line in adds if "add" in line]
            assert all(stat.keys() == {"numRecords"} for stat in stats)


def test_a_version_keeps_its_other_golden_rows_and_a_card_that_fits_its_files(workdir: Path) -> None:
    folders = [*(workdir / "export/control").glob("2*"), *(workdir / "rejected/control").glob("2*")]
    before = {folder: golden.read_golden(folder / golden.PATH) for folder in folders}
    _forget(workdir)
    heights = []
    for folder in sorted(folders):
        batch = golden.read_golden(folder / golden.PATH)
        others = before[folder].frame["user_id"].to_numpy() != GONE
        assert_frame_equal(batch.frame, before[folder].frame.filter(others))
        np.testing.assert_array_equal(batch.expected["click"], before[folder].expected["click"][others])
        facts = read_json(folder / "assets.extra/model_card.json")
        assert facts["sha256"] == card.sha256(folder)
        files = [path for path in folder.rglob("*") if path.is_file() and "model_card" not in path.name]
        assert facts["bytes"] == sum(path.stat().st_size for path in files)
        assert {path.name for path in files} == {
            "saved_model.pb", "golden.parquet", "tf_serving_warmup_requests", "tutelage.json",
        }  # fmt: skip
        assert GONE not in _warmup_users(folder)
        heights.append(batch.frame.height)
    assert heights == [40, 40, 35, 35]


def _warmup_users(folder: Path) -> list[int]:
    import tensorflow as tf

    users: list[int] = []
    for record in tf.data.TFRecordDataset(str(folder / warmup.PATH)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        users += tf.make_ndarray(request.inputs["user_id"]).tolist()
    return users


def test_checkpoints_and_versions_that_were_trained_with_it_are_listed(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _forget(workdir)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:4] == [
        "10 rows on 2 days belong to user_id 7",
        "trained with it: teacher: checkpoints 2026-01-03, 2026-01-04; versions none",
        "trained with it: control: checkpoints 2026-01-03, 2026-01-04; versions 2026010301, 2026010401",
        "trained with it: late: checkpoints 2026-01-04; versions none",
    ]
    assert printed[-2] == (
        "A model cannot unlearn: tutelage-rollback --to_day=2026-01-02 takes the teacher back, with the "
        "students that were trained on its labels; tutelage-student --reset trains a student from scratch."
    )
    assert printed[-1] == forget.ELSEWHERE


def test_a_student_met_a_user_by_the_labels_of_a_teacher_that_had(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = _open(workdir)
    small.train(session, "auxiliary", DAYS[2:])
    # Of the third day, so that the student meets only what the teacher made of it, a day later.
    lake = session.run.lake
    lake.interactions.delete_rows({"day": DAYS[3]}, pl.col("user_id") == GONE, metadata=None)
    _forget(workdir)
    assert (
        "trained with it: auxiliary: checkpoints 2026-01-03, 2026-01-04; versions none"
        in capsys.readouterr().out.splitlines()
    )


def test_a_dry_run_prints_the_same_and_leaves_all_files(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _open(workdir)
    before = {path: path.read_bytes() for path in workdir.rglob("*.parquet")}
    _forget(workdir, dry_run=True)
    assert {path: path.read_bytes() for path in workdir.rglob("*.parquet")} == before
    planned = capsys.readouterr().out.splitlines()
    _forget(workdir)
    assert [
        line.replace("would remove:", "removing:") for line in planned
    ] == capsys.readouterr().out.splitlines()
    assert "removing: 5 rows of lake/soft_labels, teacher/pre_update/2026-01-04" in (
        line.replace("would remove:", "removing:") for line in planned
    )


def test_killed_before_any_action_it_goes_on_with_that_one_when_it_is_run_again(workdir: Path) -> None:
    _note_ids(workdir)
    planned = forget.plan(_open(workdir), GONE).actions
    assert len(planned) == 15
    for number, step in enumerate(planned):
        again = forget.plan(_open(workdir), GONE)
        # Old files are looked for each time.
        left = [s.what for i, s in enumerate(planned) if i >= number or s.what.startswith("old")]
        assert [step.what for step in again.actions] == left
        # The first day on which it was met is known until its last rows go.
        assert again.days[:1] == ([DAYS[2]] if number < len(planned) - 1 else [])
        step.apply()
    assert _holders(workdir) == []


def test_killed_between_the_card_and_the_golden_rows_a_version_is_taken_up_again(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workdir / "export/control/2026010301"
    from tutelage.export import forget as beside

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(beside.card, "update_hash", killed)
    with pytest.raises(KeyboardInterrupt):
        beside.forget(folder, "control", pl.col("user_id") == GONE)
    monkeypatch.undo()
    assert GONE in golden.read_golden(folder / golden.PATH).frame["user_id"].to_list()
    assert beside.forget(folder, "control", pl.col("user_id") == GONE) == 5
    assert read_json(folder / "assets.extra/model_card.json")["sha256"] == card.sha256(folder)


def test_files_that_a_killed_job_left_are_removed_too(workdir: Path) -> None:
    lake = _open(workdir).run.lake
    rows = lake.interactions.scan(day=DAYS[3]).collect()
    orphan = lake.interactions.write_file(rows, {"day": DAYS[3]}, name="part")
    _forget(workdir)
    assert not (lake.interactions.path / orphan.path).exists()


@pytest.mark.parametrize(
    ("base", "lines"),
    [
        (
            DAYS[2],
            [
                "auxiliary: checkpoints 2026-01-06; versions none",
                "teacher-wide: checkpoints 2026-01-05; versions 2026010501",
            ],
        ),
        (DAYS[1], []),
    ],
)
def test_a_teacher_that_started_from_one_trained_on_the_user_is_listed_with_the_students_of_its_labels(
    workdir: Path, base: date, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    session = small.open_session(workdir, config=small.BESIDE, end_day=str(DAYS[-1]))
    first, later = date(2026, 1, 5), date(2026, 1, 6)
    # Days without the user.
    (state,) = small.train(session, "teacher-wide", [first])
    small.publish(session, "teacher-wide", state)
    small.train(session, "auxiliary", [later])
    session.run.warm_start("teacher-wide").write_text(json.dumps({"teacher": "teacher", "day": str(base)}))
    change = TakeOver(
        before=session.run.labeller(later),
        name="wide",
        teacher={},
        first_day=first,
        judged=[first],
        checks=[],
        from_day=later,
        decided_at="",
    )
    write_takeovers(session.run.root, [change])
    forget_command(session.reopened(), user_id=str(GONE), dry_run=True)
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trained with it: ")]
    by_days = [
        "control: checkpoints 2026-01-03, 2026-01-04; versions 2026010301, 2026010401",
        "late: checkpoints 2026-01-04; versions none",
        "teacher: checkpoints 2026-01-03, 2026-01-04; versions none",
    ]
    assert sorted(listed) == sorted(f"trained with it: {line}" for line in [*by_days, *lines])


def test_rows_that_a_killed_job_staged_are_removed_too(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = _open(workdir).run.lake
    staged = lake.interactions.path.parent / ".staging/17"
    staged.mkdir(parents=True)
    lake.interactions.scan(day=DAYS[3]).collect().write_ipc(staged / "part.arrow")
    _forget(workdir)
    assert "removing: what killed jobs have left" in capsys.readouterr().out
    assert not staged.exists()


def test_a_user_without_rows_is_reported_as_such(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _tables(workdir)
    _forget(workdir, "-3")
    assert capsys.readouterr().out.splitlines() == [
        "0 rows on 0 days belong to user_id -3",
        *(
            f"removing: old files of lake/{name}"
            for name in ("soft_labels", "histories", "metrics", "interactions")
        ),
        forget.ELSEWHERE,
    ]
    for name, frame in _tables(workdir).items():
        assert_frame_equal(frame, before[name])


@pytest.mark.parametrize("text", ["seven", "7.0", str(2**63)])
def test_a_value_that_no_user_can_have_is_refused(workdir: Path, text: str) -> None:
    with pytest.raises(UserError) as error:
        _forget(workdir, text)
    assert str(error.value) == f"--user_id={text}: user_id is an int64; give a whole number"


def test_it_is_refused_while_another_process_works_on_the_workdir(workdir: Path) -> None:
    root = workdir.resolve()
    with locked(root / "students/late/.lock", ""), pytest.raises(UserError) as error:
        _forget(workdir)
    assert str(error.value) == f"another process is working on late in {root}; wait for it, or stop it"
    with staging_folder(root / "lake"), pytest.raises(UserError) as error:
        _forget(workdir)
    assert str(error.value) == f"a job is writing tables in {root}/lake; wait for it, or stop it"


def test_no_job_starts_while_it_is_at_work(workdir: Path) -> None:
    session = _open(workdir)
    with (
        locks.on_everything(session.run, session.all_models),
        pytest.raises(UserError) as error,
        staging_folder(workdir / "lake"),
    ):
        pass
    assert str(error.value) == (
        f"tutelage-forget or tutelage-prune is running in {workdir}/lake; wait until it ends, or stop it"
    )
    with (
        staging_folder(workdir / "lake"),
        staging_folder(workdir / "lake"),
    ):  # Jobs do not exclude one another.
        pass


def test_only_files_with_rows_of_the_user_are_rewritten(workdir: Path) -> None:
    table: Table = _open(workdir).run.lake.interactions
    one = table.files(day=DAYS[0])
    version = DeltaTable(table.path).version()
    table.delete_rows({"day": DAYS[0]}, pl.col("user_id") == GONE, metadata=None)
    assert (table.files(day=DAYS[0]), DeltaTable(table.path).version()) == (one, version)
    table.delete_rows({"day": DAYS[3]}, pl.col("user_id") == GONE, metadata=None)
    assert table.partitions()["rows"].to_list() == [40, 40, 40, 35]
