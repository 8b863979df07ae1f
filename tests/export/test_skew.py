"""Logged requests are compared with the training day: each defect shows in its own line."""

import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.export.lenient import LENIENT
from tests.tiny import DAYS, MODEL, SCHEMA, commit, frame, make_run
from tutelage.export.publish import export_student
from tutelage.export.skew import (
    FeatureSkew,
    OutputSkew,
    Requests,
    SkewConfig,
    compare,
    read_requests,
)
from tutelage.export.skew.compare import jensen_shannon, psi, undo_downsampling
from tutelage.export.versions import Version
from tutelage.launch.actions.skew import skew
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Downsampling
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.day_loop import train_student
from tutelage.trainers.run import Run

DAY = DAYS[1]
ROOT = Path(__file__).parents[2]
NAMES = [feature.name for feature in SCHEMA.features]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A student trained on two days. The second has so many rows that chance moves its statistics little."""
    run = make_run(tmp_path_factory.mktemp("run"))
    n = 3000
    rng = np.random.default_rng(1)
    columns = {
        "example_id": np.arange(n),
        "event_time_us": np.arange(n),
        "user": rng.integers(0, 12, n),
        "topic": rng.choice(["news", "sport", "日本"], n),
        "seconds": rng.exponential(30, n),
        "age": rng.normal(size=n),
        "click": rng.random(n) < 0.4,
        "watch_seconds": rng.exponential(20, n),
    }
    rows = frame(DAY, columns).with_columns(
        # Every tenth is missing.
        pl.when(pl.int_range(pl.len()) % 10 > 0).then(pl.col("age")),
        pl.when(pl.int_range(pl.len()) % 10 > 0).then(pl.col("topic")),
    )
    commit(run.lake, DAY, rows, attempt=2)
    train_student(run, StudentConfig(name="control", model=MODEL), DAYS[:2])
    return run


@pytest.fixture(scope="module")
def version(run: Run) -> Version:
    return export_student(run, StudentConfig(name="control", model=MODEL), LENIENT)[-1].version


@pytest.fixture(scope="module")
def logged(run: Run, version: Version) -> pl.DataFrame:
    """Half of the training day's rows as they were served: features, and scores as a struct."""
    rows = run.lake.interactions.scan(day=DAY).collect().head(1500)
    model = tf.saved_model.load(str(version.path))
    inputs = {name: tf.constant(values) for name, values in SCHEMA.arrays(rows).items()}
    scores = model.signatures["serving_default"](**inputs)
    scores = pl.DataFrame({name: scores[name].numpy() for name in ("click", "watch_log1p")})
    return rows.select(NAMES).with_columns(scores=scores.to_struct())


def _write(path: Path, rows: pl.DataFrame) -> Path:
    """Write a log of `rows`, which may have a struct column `scores`."""
    if path.suffix == ".jsonl":
        rows.write_ndjson(path)
        return path
    flat = rows.drop("scores", strict=False)
    if "scores" in rows:
        flat = flat.hstack(rows["scores"].struct.unnest().select(pl.all().name.prefix("scores/")))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in flat.iter_rows(named=True):
            writer.write(_example(**row))
    return path


def _example(**row: Any) -> bytes:
    example = tf.train.Example()
    for name, values in row.items():
        feature = example.features.feature[name]
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str):
                feature.bytes_list.value.append(value.encode())
            elif isinstance(value, int):
                feature.int64_list.value.append(value)
            elif value is not None:
                feature.float_list.value.append(value)
    return example.SerializeToString()  # type: ignore[no-any-return]


def _compare(
    run: Run, version: Version, requests: Requests
) -> tuple[dict[str, FeatureSkew], dict[str, OutputSkew]]:
    day, before = (run.lake.interactions.scan(day=day).collect() for day in (DAY, DAYS[0]))
    features, outputs = compare(requests, day, before, model=version.path, schema=SCHEMA, config=SkewConfig())
    return {line.name: line for line in features}, {line.name: line for line in outputs}


def _past(lines: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: line.past for name, line in lines.items() if line.past}


@pytest.mark.parametrize("suffix", [".jsonl", ".tfrecord"])
def test_requests_like_the_training_day_exceed_no_limit(
    run: Run, version: Version, logged: pl.DataFrame, tmp_path: Path, suffix: str
) -> None:
    requests = read_requests(_write(tmp_path / f"log{suffix}", logged), SCHEMA)
    assert requests.features.equals(logged.select(NAMES))
    assert requests.wrong == {}
    features, outputs = _compare(run, version, requests)
    assert list(features) == NAMES
    assert _past(features) == _past(outputs) == {}
    assert [line.dtype for line in features.values()] == ["int64", "string", "float32", "float32"]
    # Every tenth row lacks a topic and an age.
    assert [line.missing for line in features.values()] == pytest.approx([0, 0.1, 0, 0.1])
    assert [line.missing_day for line in features.values()] == pytest.approx([0, 0.1, 0, 0.1])
    assert {"click", "watch_log1p"} <= outputs.keys()
    for name in ("click", "watch_log1p"):
        assert outputs[name].difference == pytest.approx(0, abs=1e-5)


def test_requests_without_scores_are_compared_too(
    run: Run, version: Version, logged: pl.DataFrame, tmp_path: Path
) -> None:
    requests = read_requests(_write(tmp_path / "log.jsonl", logged.drop("scores")), SCHEMA)
    _, outputs = _compare(run, version, requests)
    assert _past(outputs) == {}
    assert all(line.difference is None and line.drift is not None for line in outputs.values())


@pytest.mark.parametrize(
    ("suffix", "name", "served", "past"),
    [
        (".tfrecord", "age", pl.lit(None, pl.Float32), ("missing",)),
        (".jsonl", "topic", pl.col("topic").fill_null("news"), ("missing",)),
        (".tfrecord", "user", pl.col("user") + 1000, ("unknown", "drift")),
        (".jsonl", "user", pl.col("user").cast(pl.String), ("dtype",)),
        (".tfrecord", "user", pl.col("user").cast(pl.String), ("dtype",)),
        (".tfrecord", "topic", pl.int_range(pl.len()), ("dtype",)),
        (".jsonl", "age", pl.lit("30-39"), ("dtype",)),
        (".jsonl", "topic", pl.col("topic").replace("sport", "news"), ("drift",)),
        (".tfrecord", "seconds", pl.col("seconds") * 1000, ("drift",)),
    ],
)
def test_a_defect_of_a_feature_shows_in_its_line_and_in_no_other(
    run: Run,
    version: Version,
    logged: pl.DataFrame,
    tmp_path: Path,
    suffix: str,
    name: str,
    served: pl.Expr,
    past: tuple[str, ...],
) -> None:
    rows = logged.with_columns(served.alias(name))
    requests = read_requests(_write(tmp_path / f"log{suffix}", rows), SCHEMA)
    features, outputs = _compare(run, version, requests)
    assert _past(features) == {name: past}
    if past == ("dtype",):  # The model cannot score it.
        assert all(line.drift is None and not line.past for line in outputs.values())


def test_a_feature_that_no_request_has_is_missing(
    run: Run, version: Version, logged: pl.DataFrame, tmp_path: Path
) -> None:
    requests = read_requests(_write(tmp_path / "log.jsonl", logged.drop("user")), SCHEMA)
    features, _ = _compare(run, version, requests)
    assert _past(features) == {"user": ("missing",)}
    assert (features["user"].missing, features["user"].unknown, features["user"].drift) == (1, None, None)


def test_a_score_that_differs_from_the_model_s_exceeds_the_limit_and_rows_without_one_are_skipped(
    run: Run, version: Version, logged: pl.DataFrame, tmp_path: Path
) -> None:
    scores = logged["scores"].struct.unnest()
    # The first row's click is 2 % too high, the second's is not logged.
    row = pl.int_range(pl.len())
    click = pl.when(row == 0).then(pl.col("click") * 1.02).when(row > 1).then(pl.col("click"))
    rows = logged.with_columns(scores=scores.with_columns(click).to_struct())
    requests = read_requests(_write(tmp_path / "log.jsonl", rows), SCHEMA)
    _, outputs = _compare(run, version, requests)
    assert _past(outputs) == {"click": ("logged",)}
    assert outputs["click"].difference == pytest.approx(0.02, rel=1e-3)


def test_a_logged_score_that_is_nan_exceeds_the_limit(run: Run, version: Version, tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "log.tfrecord")) as writer:
        writer.write(_example(user=1, **{"scores/click": math.nan}))
    _, outputs = _compare(run, version, read_requests(tmp_path / "log.tfrecord", SCHEMA))
    assert "logged" in outputs["click"].past


def _users(*users: int | None) -> pl.DataFrame:
    return frame(DAY, [(n, n, user, "news", 1.0, 0.0, 0, 0.0) for n, user in enumerate(users)])


def test_the_share_of_unknown_ids_is_compared_with_that_of_the_day_itself(run: Run, version: Version) -> None:
    requests = Requests(features=_users(1, 2, 9, None, -1).select(NAMES), wrong={}, scores=pl.DataFrame())

    def user(before: pl.DataFrame | None) -> FeatureSkew:
        lines, _ = compare(
            requests, _users(1, 2, 3, 4), before, model=version.path, schema=SCHEMA, config=SkewConfig()
        )
        return lines[0]

    # Of 1, 2 and 9 (-1 is the default) the day lacks 9. Of 1 to 4 the day before lacks 3 and 4.
    line = user(_users(1, 2, 5))
    assert (line.unknown, line.unknown_day) == (pytest.approx(1 / 3), 0.5)
    assert (line.missing, line.missing_day) == (pytest.approx(2 / 5), 0)
    assert "unknown" not in line.past
    # 1/3 - 0 is above 0.1.
    assert "unknown" in user(_users(1, 2, 3, 4)).past
    # The very first day has nothing to compare with.
    first = user(None)
    assert (first.unknown, first.unknown_day) == (pytest.approx(1 / 3), None)
    assert "unknown" not in first.past


def test_a_downsampled_day_is_compared_as_it_was_before_downsampling(run: Run, version: Version) -> None:
    # 3 of 15 rows were positive, all of news. Of the 12 negative ones, all of sport, a quarter was kept.
    kept = [(1, "news", 1), (2, "news", 1), (3, "sport", 0), (4, "sport", 0), (5, "sport", 0), (6, "news", 1)]
    day = frame(DAY, [(n, n, 1, topic, 1.0, 0.0, click, 0.0) for n, topic, click in kept])
    schema = replace(SCHEMA, downsampling=Downsampling(task="click"))
    day = day.with_columns(sampling_rate=pl.lit(0.25, pl.Float32))
    # Their cumulative weights are 1, 2, 6, 10, 14 and 15; the rows at 1.25, 3.75, 6.25, ... are taken.
    assert undo_downsampling(day, schema)["example_id"].to_list() == [2, 3, 4, 4, 5, 5]
    assert undo_downsampling(day, SCHEMA).equals(day)

    requests = Requests(
        features=frame(
            DAY, [(n, n, 1, t, 1.0, 0.0, 0, 0.0) for n, t in enumerate(["news"] + ["sport"] * 5)]
        ).select(NAMES),
        wrong={},
        scores=pl.DataFrame(),
    )
    for declared, drift in ((schema, 0.0), (SCHEMA, 0.3054)):
        features, _ = compare(requests, day, None, model=version.path, schema=declared, config=SkewConfig())
        assert features[1].drift == pytest.approx(drift, abs=1e-4)


def test_a_value_that_the_model_treats_as_missing_counts_as_missing(run: Run, version: Version) -> None:
    columns: dict[str, list[Any]] = {
        "user": [None, -1, 5, 5],
        "topic": [None, "", "news", "news"],
        "seconds": [None, math.nan, math.inf, 0.0],
        "age": [0.0, 1.0, 2.0, 3.0],
    }
    requests = Requests(
        features=pl.DataFrame(columns, schema=run.lake.interactions.scan().select(NAMES).collect_schema()),
        wrong={},
        scores=pl.DataFrame(),
    )
    features, _ = _compare(run, version, requests)
    assert [line.missing for line in features.values()] == [2 / 4, 2 / 4, 3 / 4, 0]


def test_ids_drift_by_their_jensen_shannon_distance() -> None:
    ones, half = pl.Series([1, 1]), pl.Series([1, 2, 2, 1])
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): (log2(4/3) + log2(2/3) / 2 + log2(2) / 2) / 2 = 0.3113.
    assert jensen_shannon(ones, half) == pytest.approx(math.sqrt(0.3112781))
    assert jensen_shannon(half, half) == 0
    assert jensen_shannon(pl.Series([7]), ones) == pytest.approx(1)
    assert jensen_shannon(pl.Series(["a", "b"]), pl.Series(["b", "a"])) == 0
    assert jensen_shannon(pl.Series([], dtype=pl.Int64), ones) is None
    assert jensen_shannon(ones, pl.Series([], dtype=pl.Int64)) is None


def test_ids_beyond_the_20_most_frequent_count_as_one() -> None:
    # 1 to 20 twice and 21 to 60 once: the latter half counts as one id, whichever of them occurs.
    day = pl.Series([*range(1, 21), *range(1, 21), *range(21, 61)])
    assert jensen_shannon(pl.Series([*range(1, 21), *[99] * 20]), day) == pytest.approx(0)


def test_numbers_drift_by_the_population_stability_index_over_deciles() -> None:
    day = pl.Series(range(10))  # one in each of ten bins
    # p = 2.5/7 and nine of 0.5/7, q = 1.5/15 each:
    # (0.35714 - 0.1) ln 3.5714 + 9 (0.071429 - 0.1) ln 0.71429 = 0.32733 + 0.08652
    assert psi(pl.Series([0, 0]), day) == pytest.approx(0.413856, rel=1e-4)
    # Below all others, in its own bin: 1.5/6.5 against 0.5/15.5, and ten of 0.5/6.5 against 1.5/15.5.
    below = (1.5 / 6.5 - 0.5 / 15.5) * math.log(1.5 / 6.5 / (0.5 / 15.5))
    inside = 10 * (0.5 / 6.5 - 1.5 / 15.5) * math.log(0.5 / 6.5 / (1.5 / 15.5))
    assert psi(pl.Series([-1]), day) == pytest.approx(below + inside)
    assert psi(pl.Series([99]), day) == pytest.approx(below + inside)
    assert psi(day, day) == 0
    assert psi(pl.Series([], dtype=pl.Float32), day) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_index_of_scores_that_are_not_finite_is_nan(value: float) -> None:
    scores = pl.Series([0.5, value])
    assert math.isnan(psi(scores, pl.Series([0.5, 0.6])) or 0)
    assert math.isnan(psi(pl.Series([0.5, 0.6]), scores) or 0)


@pytest.mark.parametrize("value", [4.0, 6.0])
def test_a_number_that_was_constant_and_now_differs_has_drifted(value: float) -> None:
    day = pl.Series([5.0] * 100)
    assert psi(pl.Series([5.0] * 50), day) == 0
    drift = psi(pl.Series([value] * 50), day)
    assert drift is not None
    assert drift > 5


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("log.csv", "user\n1\n", "unknown format '.csv'; expected .jsonl or .tfrecord"),
        ("none.jsonl", None, "no such file; give a log of requests"),
        ("log.jsonl", '{"user": 1}\n{"user": \n', "{path}, line 2 is not a JSON object: "),
        ("log.jsonl", '{"user": 1}\n\n[2]\n', "{path}, line 3 is not a JSON object: "),
        ("log.jsonl", "", "{path}, read as JSON lines: "),
        ("log.jsonl", '{"user": 1}\n{"user": true}\n', "{path}, read as JSON lines: cannot parse 'true'"),
        ("log.jsonl", "{}\n", "no request in it has a feature; give a log of requests"),
        (
            "log.jsonl",
            '{"user": 1, "price": 2}\n',
            "'price' is not a feature of the schema, which has user, topic, seconds, age",
        ),
        (
            "log.jsonl",
            '{"user": 1, "scores": 0.5}\n',
            "scores is Float64, expected an object of numbers by output",
        ),
        (
            "log.jsonl",
            '{"scores": {"click": "high"}}\n',
            "scores/click is string, expected one number per request",
        ),
        (
            "log.tfrecord",
            "no records are here",
            "is not a TFRecord of tf.Examples with features: corrupted record at 0 (Is this even a TFRecord file?)",
        ),
        ("log.tfrecord", "", "no request in it has a feature; give a log of requests"),
        (
            "log.tfrecord",
            [_example(user=1), _example(price=2.0)],
            "'price' is not a feature of the schema, which has user, topic, seconds, age",
        ),
        ("log.tfrecord", [b"\xff"], "is not a TFRecord of tf.Examples with features: "),
    ],
)
def test_a_file_that_is_not_a_log_of_requests_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | list[bytes] | None, says: str
) -> None:
    path = tmp_path / name
    if isinstance(content, list):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in content:
                writer.write(record)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        read_requests(path, SCHEMA)
    text = says.format(path=path) if "{path}" in says else f"{path}: {says}"
    assert str(error.value).startswith(text)
    assert text.endswith(": ") or "cannot parse" in text or str(error.value) == text
    assert "\n" not in str(error.value)


def test_a_list_or_a_mixture_of_two_dtypes_is_a_wrong_dtype(tmp_path: Path) -> None:
    path = tmp_path / "log.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(_example(user=1, age=[1.0, 2.0], seconds=None))
        writer.write(_example(user="1", age=3.0, topic="日本"))
    requests = read_requests(path, SCHEMA)
    assert requests.wrong == {"user": "int64, string", "age": "a list of float32"}
    assert requests.features["topic"].to_list() == [None, "日本"]
    assert requests.features.select("user", "age", "seconds").null_count().row(0) == (2, 2, 2)


def test_a_logged_score_that_is_not_an_output_is_refused(run: Run, version: Version, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"user": 1, "scores": {"like": 0.5}}\n')
    requests = read_requests(tmp_path / "log.jsonl", SCHEMA)
    says = f"'like' is a logged score but not an output of {version.path}, which has "
    with pytest.raises(UserError, match=f"^{re.escape(says)}.*click"):
        _compare(run, version, requests)


CONFIG = """
from datetime import date

from tests.tiny import BATCH, MODEL, SCHEMA
from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig


def experiment(*, smoke: bool) -> Experiment:
    return Experiment(
        name="tiny",
        source=Synthetic(
            seed=1,
            first_day=date(2026, 1, 1),
            rows_per_day=10,
            users=5,
            videos=5,
            new_users_per_day=1,
            new_videos_per_day=1,
        ),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=BATCH),
        teacher=TeacherConfig(model=MODEL),
        students=tuple(StudentConfig(name=name, model=MODEL) for name in ("control", "new", "unpublished")),
        start_day="2026-01-01",
        end_day="2026-01-03",
        serving=ServingConfig(score=(("click", 1.0),)),
    )
"""


@pytest.fixture(scope="module")
def session(run: Run, version: Version, tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    shutil.copytree(run.folder("control"), run.folder("unpublished"))
    return Session.open(config=str(path), workdir=str(run.root))


def _printed(text: str, name: str) -> list[str]:
    """Return the words of the line that begins with `name`."""
    (line,) = (line.split() for line in text.splitlines() if line.startswith(f"{name} "))
    return line


def test_the_command_prints_a_line_per_feature_and_output_against_the_newest_trained_day(
    session: Session,
    version: Version,
    logged: pl.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    skew(session, student="control", requests=str(_write(tmp_path / "log.jsonl", logged)))
    text = capsys.readouterr().out
    assert text.startswith(
        f"1,500 requests against 2026-01-02 of interactions and the scores of control {version.number}\n"
    )
    # dtype, missing, on the day, unknown, on the day, drift
    words = _printed(text, "topic")
    assert (words[1:4], words[-1]) == (["string", "10.0%", "10.0%"], words[6])
    # The day has users 0 to 11; the day before has some of -5 to 24.
    assert _printed(text, "user")[1:5] == ["int64", "0.0%", "0.0%", "0.0%"]
    assert _printed(text, "seconds")[1:6] == ["float32", "0.0%", "0.0%", "–", "–"]
    assert [len(_printed(text, name)) for name in ("click", "watch_log1p")] == [3, 3]


def test_the_command_marks_what_exceeds_its_limit_and_fails_with_it(
    session: Session, logged: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(tmp_path / "log.jsonl", logged.with_columns(user=pl.lit("u1"), age=pl.lit("old")))
    with pytest.raises(UserError) as error:
        skew(session, student="control", requests=str(path))
    assert str(error.value) == (
        f"{path} is past the thresholds in user (dtype); age (dtype); compare how the server makes these "
        "with how the training day was made"
    )
    text = capsys.readouterr().out
    assert [_printed(text, name)[-1] for name in ("user", "age")] == ["dtype", "dtype"]
    assert _printed(text, "click") == ["click", "–", "–"]


def test_another_day_may_be_compared(session: Session, logged: pl.DataFrame, tmp_path: Path) -> None:
    # 8 of its 60 rows have no topic and others an empty one. Its ids and numbers have other distributions.
    with pytest.raises(UserError, match=r"past the thresholds in .*topic \(missing"):
        skew(
            session, student="control", requests=str(_write(tmp_path / "log.jsonl", logged)), day="2026-01-01"
        )


@pytest.mark.parametrize(
    ("student", "day", "says"),
    [
        ("nobody", None, "unknown student 'nobody'; this config has control, new, unpublished"),
        ("new", None, "new is trained on no day in {workdir}; train it first"),
        (
            "unpublished",
            None,
            "unpublished has no version in {workdir}; publish one with tutelage-export --model=unpublished",
        ),
        (
            "control",
            "2026-02-01",
            "--day=2026-02-01: not in {workdir}/lake/interactions; run tutelage-materialize for it, or give another",
        ),
        ("control", None, "gone.jsonl: no such file; give a log of requests"),
    ],
)
def test_the_command_says_why_it_has_nothing_to_compare(
    session: Session, student: str, day: str | None, says: str
) -> None:
    with pytest.raises(UserError) as error:
        skew(session, student=student, requests="gone.jsonl", day=day)
    assert str(error.value) == says.format(workdir=session.run.root)


@pytest.mark.end_to_end
def test_the_process_succeeds_quietly_or_fails_in_one_line(
    session: Session, logged: pl.DataFrame, tmp_path: Path
) -> None:
    good = _write(tmp_path / "good.tfrecord", logged)
    junk = tmp_path / "junk.tfrecord"
    junk.write_text("no records are here")
    code = "from tutelage.launch.commands import skew; skew()"
    common = ["--student=control", f"--config={session.request['config']}", f"--workdir={session.run.root}"]
    for path, says in ((good, ""), (junk, f"{junk}: is not a TFRecord of tf.Examples")):
        done = subprocess.run(
            [sys.executable, "-c", code, f"--requests={path}", *common],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == (1 if says else 0), done.stderr
        assert len(done.stderr.splitlines()) == done.returncode, done.stderr
        assert says in done.stderr
        assert done.stdout.startswith("1,500 requests against 2026-01-02") == (path == good)
