"""Lists, buckets and histories through all rooms: training, labelling, exporting, serving and skew."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tests.export.lenient import LENIENT
from tests.export.serving import MODEL, SERVING, assert_equal, make_ranker, trainer_scores
from tests.tiny import BATCH, DAYS, SCHEMA, commit, frame, interactions
from tutelage.export import golden, warmup
from tutelage.export.gate import adversarial
from tutelage.export.publish import export_student, export_teacher
from tutelage.export.saved_model import Served
from tutelage.export.skew import SkewConfig, compare, read_requests
from tutelage.models.config import distil
from tutelage.models.id_map import fingerprint
from tutelage.pipeline import histories
from tutelage.pipeline.label import Snapshot, label
from tutelage.pipeline.schema import Feature, History
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.run import Run

LISTS = replace(
    SCHEMA,
    features=(
        Feature(name="tags", dtype="string", capacity=20, length=2),
        Feature(name="user", dtype="int64", capacity=40, scope="user"),
        Feature(name="topic", dtype="string", capacity=20),
        Feature(name="seconds", dtype="float32", log1p=True, buckets=(5.0, 30.0)),
        Feature(name="age", dtype="float32", buckets=(0.0, 2e6), scope="user"),
    ),
    user="user",
    histories=(History(of="topic", length=3, where="click"),),
)
USER = ["user", "age", "history"]
NOT_SERVED = ("history", "age")


def _rows(n: int) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(n)
    words = ["", "news", "日本", "x" * 40]
    return {
        "tags": tf.constant(rng.choice(words, [n, 2])),
        "user": tf.constant(rng.integers(-(2**63), 2**63 - 1, n)),
        "topic": tf.constant(rng.choice(words, n)),
        "seconds": tf.constant(rng.exponential(30, n), tf.float32),
        "age": tf.constant(rng.normal(size=n), tf.float32),
        "history": tf.constant(rng.choice(words, [n, 3])),
    }


def _by_id(rows: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return the rows with strings as their fingerprints."""

    def prints(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(fingerprint(tf.reshape(values, [-1])), values.shape)

    return {name: prints(v) if v.dtype == tf.string else v for name, v in rows.items()}


def _example(row: Mapping[str, Any]) -> bytes:
    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        for item in value if isinstance(value, list) else [value]:
            kinds = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}
            kinds[type(item)].value.append(item)
    return example.SerializeToString()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lists") / "model"
    Served(make_ranker(LISTS), SERVING).save(str(path))
    return path


@pytest.fixture(scope="module")
def model(path: Path) -> Any:
    return tf.saved_model.load(str(path))


@pytest.mark.parametrize("n", [1, 50])
def test_every_signature_scores_lists_as_the_trainer_does(model: Any, n: int) -> None:
    rows = _rows(n)
    expected = trainer_scores(make_ranker(LISTS), rows)
    assert len(np.unique(expected["score"])) == n
    assert_equal(model.signatures["serving_default"](**rows), expected)
    assert_equal(model.signatures["serve_ids"](**_by_id(rows)), expected)
    columns = [values.numpy().tolist() for values in rows.values()]
    examples = [_example(dict(zip(rows, row, strict=True))) for row in zip(*columns, strict=True)]
    assert_equal(model.serve_examples(tf.constant(examples)), expected)
    one = {name: values[:1] if name in USER else values for name, values in rows.items()}
    repeated = {name: tf.repeat(v, n, axis=0) if len(v) == 1 else v for name, v in one.items()}
    assert_equal(model.signatures["score_list"](**one), trainer_scores(make_ranker(LISTS), repeated))


def test_a_list_that_is_left_out_is_empty_and_one_in_an_example_is_cut_or_padded(model: Any) -> None:
    rows = _rows(4)
    ranker = make_ranker(LISTS)
    empty = rows | {"history": tf.fill([4, 3], "")}
    expected = trainer_scores(ranker, empty)
    assert_equal(model.serving_default(**{k: v for k, v in rows.items() if k != "history"}), expected)
    row = {"user": 7, "topic": b"news"}
    lists: list[list[bytes]] = [[], [b"a"], [b"a", b"b", b"c"]]
    examples = [_example(row | ({"tags": tags} if tags else {})) for tags in lists]
    given = {
        "tags": tf.constant([["", ""], ["a", ""], ["a", "b"]]),
        "user": tf.constant([7, 7, 7], tf.int64),
        "topic": tf.constant(["news"] * 3),
        "seconds": tf.zeros([3]),
        "age": tf.zeros([3]),
        "history": tf.fill([3, 3], ""),
    }
    assert_equal(model.serve_examples(tf.constant(examples)), trainer_scores(ranker, given))


def test_a_list_of_another_length_or_dtype_is_refused_by_name(model: Any) -> None:
    rows = _rows(2)
    for wrong in (tf.fill([2, 3], "a"), tf.fill([2], "a")):
        with pytest.raises((tf.errors.InvalidArgumentError, TypeError, ValueError), match="tags"):
            model.signatures["serving_default"](**(rows | {"tags": wrong}))
    two_users = rows | {"tags": rows["tags"], "user": rows["user"][:1], "age": rows["age"][:1]}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"history \[2,3\] is not compatible.*\[1,3\]"):
        model.signatures["score_list"](**two_users)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Key: tags.*Data types don't match"):
        model.signatures["serve_examples"](tf.constant([_example({"tags": [7]})]))


def test_a_runtime_without_strings_scores_lists_the_same(path: Path) -> None:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=["serve_ids"])
    assert converter.target_spec.supported_ops == {tf.lite.OpsSet.TFLITE_BUILTINS}
    litert = Interpreter(model_content=converter.convert()).get_signature_runner("serve_ids")
    rows = _rows(20)
    scores = litert(**{name: values.numpy() for name, values in _by_id(rows).items()})
    assert_equal(scores, trainer_scores(make_ranker(LISTS), rows))


def test_adversarial_rows_have_finite_scores_and_a_bucket_beyond_a_million_is_kept(model: Any) -> None:
    absurd = adversarial(LISTS)
    assert {name: values.shape for name, values in absurd.items()} == {
        "tags": (7, 2),
        "user": (7,),
        "topic": (7,),
        "seconds": (7,),
        "age": (7,),
        "history": (7, 3),
    }
    assert len({tuple(row) for row in absurd["history"].tolist()}) == 7
    scores = model.serving_default(**{name: tf.constant(values) for name, values in absurd.items()})
    assert all(np.isfinite(values).all() for values in scores.values())
    # A number is cut at its outermost bucket beyond 1e6, and one a thousand times as large counts as missing.
    for age, as_if in ((3e6, 2e6), (1.9e9, 2e6), (2.1e9, 0.0), (3e38, 0.0)):
        rows, expected = (_rows(1) | {"age": tf.constant([number])} for number in (age, as_if))
        with np.errstate(over="ignore"):
            assert_equal(model.serving_default(**rows), trainer_scores(make_ranker(LISTS), expected))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher that takes all features, and a student without the one that the server does not have."""
    run = Run(
        name="lists",
        schema=LISTS,
        training=TrainingConfig(batch_size=BATCH),
        teacher=TeacherConfig(model=MODEL),
        root=tmp_path_factory.mktemp("run"),
    )
    run.lake.create()
    for day in DAYS:
        rows = interactions(day)
        tags = pl.when(pl.int_range(pl.len()) % 3 > 0).then(pl.concat_list("topic", pl.lit("a"), pl.lit("b")))
        commit(run.lake, day, rows.with_columns(tags=tags))
    histories.build(LISTS, run.lake, days=DAYS)
    train_teacher(run, DAYS[:2])
    train_student(run, STUDENT, DAYS[:2])
    return run


STUDENT = StudentConfig(
    name="small",
    model=replace(MODEL, without=NOT_SERVED),
    distillation=distil("click", "watch"),
)


def test_a_teacher_s_snapshot_labels_a_day_with_histories_as_its_trainer_scores_it(run: Run) -> None:
    version = export_teacher(run, days=[DAYS[0]])[0].version
    done = label(
        LISTS,
        run.lake,
        teacher="teacher",
        days={DAYS[1]: Snapshot(path=str(version.path), day=DAYS[0], step=1)},
    )
    assert done == {DAYS[1]: 57}
    rows = run.lake.with_histories(run.lake.interactions.scan(day=DAYS[1]), DAYS[1]).sort("example_id")
    arrays = LISTS.arrays(rows.collect())
    assert (arrays["history"] != "").sum() > 10
    model = tf.saved_model.load(str(version.path))
    raw = model.serving_default(**{name: tf.constant(values) for name, values in arrays.items()})
    made = run.lake.soft_labels.scan(producer="snapshot", day=DAYS[1]).sort("example_id").collect()
    for name in ("click_logit", "watch_log1p"):
        np.testing.assert_allclose(made[name], raw[name], rtol=1e-5, atol=1e-6)
    # The histories change the scores.
    empty = arrays | {"history": np.full_like(arrays["history"], "")}
    other = model.serving_default(**{name: tf.constant(values) for name, values in empty.items()})
    assert np.any(raw["click_logit"].numpy() != other["click_logit"].numpy())


def test_a_student_without_an_input_does_not_ask_for_it_and_is_blessed(run: Run) -> None:
    first, second = export_student(run, STUDENT, LENIENT)
    assert (first.verdict and first.verdict.verdict, second.verdict and second.verdict.verdict) == (
        "first",
        "pass",
    )
    folder = second.version.path
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert sorted(signature.structured_input_signature[1]) == ["seconds", "tags", "topic", "user"]
    batch = golden.read_golden(folder / golden.PATH)
    assert batch.frame.schema["tags"] == pl.Array(pl.String, 2)
    assert batch.features["tags"].shape == (57, 2)
    assert (folder / warmup.PATH).stat().st_size > 0


def test_a_list_of_another_length_changes_the_signature(run: Run, tmp_path: Path) -> None:
    export_student(run, STUDENT, LENIENT)
    features = (replace(LISTS.features[0], length=3), *LISTS.features[1:])
    longer = replace(run, schema=replace(LISTS, features=features))
    (done,) = export_student(
        replace(longer, root=_copy(run.root, tmp_path)), STUDENT, LENIENT, days=[DAYS[1]]
    )
    assert done.verdict
    assert "tags was string[2] and is string[3]" in str(done.verdict)


def _copy(root: Path, to: Path) -> Path:
    """A copy of the workdir without its last version."""
    shutil.copytree(root, to / "w")
    versions = sorted((to / "w/export/small").glob("2026*"))
    shutil.rmtree(versions[-1])
    return to / "w"


@pytest.mark.parametrize("suffix", [".jsonl", ".tfrecord"])
def test_logged_lists_are_compared_item_by_item(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "model"
    Served(make_ranker(LISTS), SERVING).save(str(path))
    n = 1000
    rng = np.random.default_rng(1)
    # A third of the rows have no tags. Models do not read the third item.
    tags = [[["a", "b", "z"], ["c"], []][i % 3] for i in range(n)]
    day = frame(
        DAYS[0],
        {
            "example_id": np.arange(n),
            "event_time_us": np.arange(n),
            "user": rng.integers(0, 12, n),
            "topic": ["news"] * n,
            "seconds": rng.exponential(30, n),
            "age": rng.normal(size=n),
            "click": np.zeros(n, bool),
            "watch_seconds": np.zeros(n),
        },
    ).with_columns(tags=pl.Series(tags), history=pl.Series([["news"]] * n))
    logged = day.select(f.name for f in LISTS.inputs()).with_columns(
        tags=pl.Series([["a", "b"] if i % 2 else ["new"] for i in range(n)])
    )
    log = tmp_path / f"log{suffix}"
    if suffix == ".jsonl":
        logged.write_ndjson(log)
    else:
        with tf.io.TFRecordWriter(str(log)) as writer:
            for row in logged.iter_rows(named=True):
                as_bytes = {
                    k: [i.encode() for i in v]
                    if isinstance(v, list)
                    else v.encode()
                    if isinstance(v, str)
                    else v
                    for k, v in row.items()
                }
                writer.write(_example(as_bytes))
    requests = read_requests(log, LISTS)
    assert requests.wrong == {}
    features, outputs = compare(requests, day, day, model=path, schema=LISTS, config=SkewConfig())
    lines = {line.name: line for line in features}
    assert lines["tags"].dtype == "a list of string"
    assert lines["tags"].missing == 0
    assert lines["tags"].missing_day == pytest.approx(333 / 1000)  # the rows i of 0 to 999 with i % 3 == 2
    # 500 × a, 500 × b, 500 × new: the day does not have a third of the items.
    assert lines["tags"].unknown == pytest.approx(1 / 3)
    assert lines["tags"].past == ("missing", "unknown", "drift")
    assert lines["history"].past == ()
    assert all(line.drift is not None for line in outputs)


def test_a_single_value_instead_of_a_list_is_a_wrong_dtype(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"user": [1], "tags": "a", "topic": "news"}\n')
    assert read_requests(log, LISTS).wrong == {"user": "a list of int64", "tags": "string"}
