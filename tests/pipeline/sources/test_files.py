"""A user's own logs, as real files of each format: every row is read right or counted, every bad file is named."""

import ast
import gzip
import json
import os
import pickle
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.schema import Downsampling, Feature, Schema, Task
from tutelage.pipeline.sources.files import Files

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="topic", dtype="string", capacity=10),
        Feature(name="age", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="seconds", kind="log1p")),
    key=("user", "event_time_us"),
)
ID = 2**53 + 1  # No float64 can hold it.
# `user` is called `uid` in the raw files, and `other` is not one of our columns.
EVENT: dict[str, Any] = {
    "uid": ID,
    "topic": '日本, "news"',
    "age": 2.5,
    "click": 1,
    "seconds": 61.5,
    "ts": 1_767_225_600_123,  # 2026-01-01 00:00:00.123 in UTC
    "other": "x",
}
US = 1_767_225_600_123_000
READ = {"event_time_us": US, "user": ID, "topic": '日本, "news"', "age": 2.5, "click": 1, "seconds": 61.5}
TEXT = ("csv", "csv.gz", "csv.zst", "jsonl", "jsonl.gz", "jsonl.zst")
FORMATS = ("parquet", "tfrecord", "tfrecord.gz", *TEXT)


def _files(kind: str = "csv", **fields: Any) -> Files:
    defaults = {"event_time": "ts", "time_unit": "ms", "renamed": (("user", "uid"),)}
    return Files(**{"pattern": f"*.{kind}", "schema": SCHEMA} | defaults | fields)


def _packed(kind: str, data: bytes) -> bytes:
    if kind.endswith(".gz"):
        return gzip.compress(data)
    return pa.compress(data, codec="zstd", asbytes=True) if kind.endswith(".zst") else data


def _csv(rows: Sequence[dict[str, Any]], quoted: Collection[str] = ',"') -> bytes:
    def field(value: Any) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if set(text) & set(quoted) else text

    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(",".join(map(field, line)) + "\n" for line in lines).encode()


def _jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _example(row: dict[str, Any]) -> bytes:
    def feature(value: Any) -> tf.train.Feature:
        if isinstance(value, str):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        if isinstance(value, float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        values = [] if value is None else [value]
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {name: feature(value) for name, value in row.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _write_records(path: Path, records: Sequence[bytes]) -> None:
    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for record in records:
            writer.write(record)


def _write(folder: Path, kind: str, rows: Sequence[dict[str, Any]], name: str = "a") -> Path:
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif kind.startswith("tfrecord"):
        _write_records(path, [_example(row) for row in rows])
    else:
        path.write_bytes(_packed(kind, (_csv if kind.startswith("csv") else _jsonl)(rows)))
    return path


def _read(folder: Path, kind: str = "csv", **fields: Any) -> pl.DataFrame:
    source = _files(kind, **fields)
    units = source.units(str(folder), workdir="", days=[])
    frames = [frame for unit in units for frame in source.read(unit)]
    # An empty file of JSON lines or records has no events, and needs no header.
    empty = pl.DataFrame(schema=["event_time_us", *source.columns(), "content", "dropped"])
    return pl.concat(frames) if frames else empty


def _read_or_refused(folder: Path, kind: str) -> pl.DataFrame | str:
    try:
        return _read(folder, kind)
    except UserError as error:
        return str(error)


def _refused(folder: Path, kind: str, **fields: Any) -> str:
    with pytest.raises(UserError) as error:
        _read(folder, kind, **fields)
    assert "\n" not in str(error.value)
    return str(error.value)


LISTS = replace(
    SCHEMA,
    features=(
        *SCHEMA.features,
        Feature(name="tags", dtype="int64", capacity=9, length=2),
        Feature(name="words", dtype="string", capacity=9, length=2),
    ),
)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_list_is_a_parquet_list_or_a_json_array(tmp_path: Path, kind: str) -> None:
    found: list[tuple[Any, Any]] = [([ID, None, 3], ["a,b", "日本"]), ([], []), (None, None)]
    as_raw = json.dumps if kind == "csv" else lambda items: items
    rows = [EVENT | {"tags": tags, "words": words} for tags, words in found]
    _write(
        tmp_path,
        kind,
        [r | {k: None if r[k] is None else as_raw(r[k]) for k in ("tags", "words")} for r in rows],
    )
    frame = _read(tmp_path, kind, schema=LISTS)
    assert frame.schema["tags"] == pl.List(pl.Int64)
    # All items are kept; a model reads only the first `length` of them.
    assert frame["tags"].to_list() == [[ID, 3], [], None]
    assert frame["words"].to_list() == [["a,b", "日本"], [], None]
    assert frame["dropped"].to_list() == [None] * 3


@pytest.mark.parametrize("tags", ["x", 7, {"a": 1}, ["x"], [1, [2]], [1.5]])
def test_a_row_is_dropped_if_its_list_is_not_a_list_or_has_an_item_that_does_not_fit(
    tmp_path: Path, tags: Any
) -> None:
    _write(tmp_path, "jsonl", [EVENT | {"tags": tags, "words": []}, EVENT | {"tags": [1], "words": [""]}])
    frame = _read(tmp_path, "jsonl", schema=LISTS)
    assert frame["dropped"].to_list() == ["bad_tags", None]
    assert frame["tags"].to_list() == [None, [1]]
    assert frame["words"].to_list() == [[], []]  # An empty text is a null.


def test_a_parquet_column_that_is_not_a_list_of_the_right_type_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([EVENT | {"tags": 7, "words": ["a"]}])
    pq.write_table(table, tmp_path / "a.parquet")
    says = r"column 'tags' is Int64, expected List(Int64)"
    assert says in _refused(tmp_path, "parquet", schema=LISTS)
    bad = pa.array([[b"a", b"\xff"]], pa.list_(pa.binary())).cast(pa.list_(pa.string()), safe=False)
    pq.write_table(
        table.set_column(8, "words", bad).set_column(7, "tags", pa.array([[7]])), tmp_path / "a.parquet"
    )
    assert _read(tmp_path, "parquet", schema=LISTS)["dropped"].to_list() == ["bad_words"]


def test_a_downsampled_log_gives_the_rate_at_which_negatives_were_kept(tmp_path: Path) -> None:
    schema = replace(SCHEMA, downsampling=Downsampling(task="click"))
    rates = ["0.25", "1", "", "0", "1.5", "-1", "nan"]
    _write(tmp_path, "csv", [EVENT | {"kept": rate} for rate in rates])
    frame = _read(tmp_path, schema=schema, renamed=(("user", "uid"), ("sampling_rate", "kept")))
    assert frame["sampling_rate"].to_list() == [0.25, 1.0, None, None, None, None, None]
    assert frame["dropped"].to_list() == [None, None, None, *["bad_sampling_rate"] * 3, None]
    with pytest.raises(UserError, match="has no column 'sampling_rate'"):
        _read(tmp_path, schema=schema)
    # It is not required of a log that has all its negatives.
    made = replace(SCHEMA, downsampling=Downsampling(task="click", rate=0.5))
    assert "sampling_rate" not in _files(schema=made).columns()


@pytest.mark.parametrize("kind", FORMATS)
def test_one_event_is_the_same_in_every_format(tmp_path: Path, kind: str) -> None:
    _write(tmp_path, kind, [EVENT, dict.fromkeys(EVENT) | {"ts": EVENT["ts"]}])
    frame = _read(tmp_path, kind)
    assert dict(frame.schema) == {
        "event_time_us": pl.Int64,
        "user": pl.Int64,
        "topic": pl.String,
        "age": pl.Float32,
        "click": pl.Int8,
        "seconds": pl.Float32,
        "content": pl.UInt64,
        "dropped": pl.String,
    }
    nothing = dict.fromkeys(READ) | {"event_time_us": US}
    assert frame.drop("content").to_dicts() == [READ | {"dropped": None}, nothing | {"dropped": None}]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_boolean_is_the_same_text_in_every_format(tmp_path: Path, kind: str) -> None:
    _write(tmp_path, kind, [EVENT | {"topic": True}])
    assert _read(tmp_path, kind)["topic"].to_list() == ["true"]


# A raw value as text, and what it is read as; "bad_..." is the reason why its row is dropped.
VALUES: dict[str, list[tuple[str, Any]]] = {
    "uid": [
        ("", None),
        ("7", 7),
        ("-7", -7),
        ("9007199254740993.0", ID),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "bad_user"),
        ("7.5", "bad_user"),
        ("1e3", "bad_user"),
        ("seven", "bad_user"),
        ("true", 1),
    ],
    "topic": [("", None), ("a", "a"), ("7.0", "7.0"), ("日", "日"), ("'", "'")],
    "age": [("", None), ("3", 3.0), ("1e2", 100.0), ("nan", None), ("inf", "bad_age"), ("1e39", "bad_age")],
    "click": [
        ("", None),
        ("0", 0),
        ("False", 0),
        ("1.0", 1),
        ("2", "bad_click"),
        ("-1", "bad_click"),
        ("257", "bad_click"),
        ("nan", "bad_click"),
        ("yes", "bad_click"),
    ],
    "seconds": [("", None), ("0", 0.0), ("-0.5", "bad_seconds"), ("-inf", "bad_seconds"), ("NaN", None)],
    "ts": [
        ("1767225600123", US),
        ("0", 0),
        ("1767225600123.5", US + 500),
        ("4102444799999", 4_102_444_799_999_000),
        ("4102444800000", "bad_time"),
        ("-1", "bad_time"),
        ("", "bad_time"),
        ("nan", "bad_time"),
        ("1767225600123000000", "bad_time"),
        ("2026-01-01", "bad_time"),
    ],
}
OURS = {"uid": "user", "topic": "topic", "age": "age", "click": "click", "seconds": "seconds"}
OURS |= {"ts": "event_time_us"}


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["parquet", "csv", "jsonl.zst"]),
    rows=st.lists(
        st.tuples(*(st.sampled_from(values) for values in VALUES.values())), min_size=1, max_size=8
    ),
)
def test_every_row_is_read_right_or_dropped_with_its_reason(
    tmp_path_factory: pytest.TempPathFactory, kind: str, rows: list[tuple[tuple[str, Any], ...]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "values"
    folder.mkdir(exist_ok=True)
    _write(folder, kind, [dict(zip(VALUES, (raw for raw, _ in row), strict=True)) for row in rows])
    frame = _read(folder, kind)
    assert len(frame) == len(rows)
    for got, row in zip(frame.to_dicts(), rows, strict=True):
        wanted = dict(zip(OURS.values(), (value for _, value in row), strict=True))
        bad = [value for value in wanted.values() if str(value).startswith("bad_")]
        # The time is checked first, then the columns of the schema in their order.
        assert got["dropped"] == ("bad_time" if "bad_time" in bad else bad[0] if bad else None)
        for name, value in wanted.items():
            assert got[name] == (None if value in bad else value)


@pytest.mark.parametrize(
    ("array", "read", "dropped"),
    [
        (pa.array([ID, None], pa.uint64()), [ID, None], [None, None]),
        (pa.array([2**63, 1], pa.uint64()), [None, 1], ["bad_user", None]),
        (pa.array([7.0, 7.5, float("nan")]), [7, None, None], [None, "bad_user", None]),
        (pa.array([2.0**53, 2.0**53 + 2]), [2**53, None], [None, "bad_user"]),
        (pa.array([Decimal(f"{ID}.00"), Decimal("1.50")]), [ID, None], [None, "bad_user"]),
        (pa.array([Decimal(ID)], pa.decimal256(50, 0)), [ID], [None]),
        (pa.array([True]), [1], [None]),
        (pa.array([str(ID)]).dictionary_encode(), [ID], [None]),
        (pa.nulls(2), [None, None], [None, None]),
    ],
    ids=str,
)
def test_the_types_of_parquet_fit_an_id(
    tmp_path: Path, array: pa.Array, read: list[Any], dropped: list[Any]
) -> None:
    table = pa.Table.from_pylist([EVENT] * len(array))
    pq.write_table(table.set_column(0, "uid", array), tmp_path / "a.parquet")
    frame = _read(tmp_path, "parquet")
    assert frame["user"].to_list() == read
    assert frame["dropped"].to_list() == dropped


@pytest.mark.parametrize(
    ("column", "array", "says"),
    [
        ("uid", pa.array([[1]]), r"column 'uid' is List\(Int64\), expected Int64"),
        ("uid", pa.array([date(2026, 1, 1)]), "column 'uid' is Date, expected Int64"),
        ("topic", pa.array([1.5]), "column 'topic' is Float64, expected String"),
        ("ts", pa.array([True]), "column 'ts' is Boolean, expected a number of ms or a timestamp"),
    ],
)
def test_a_type_that_can_never_fit_is_named(tmp_path: Path, column: str, array: pa.Array, says: str) -> None:
    table = pa.Table.from_pylist([EVENT])
    table = table.set_column(table.column_names.index(column), column, array)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=f"a.parquet: {says}"):
        _read(tmp_path, "parquet")


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("2026-01-01T00:00:00.123Z", US),
        ("2026-01-01T01:00:00.123+01:00", US),
        ("2025-12-31 22:30:00.123-0130", US),
        ("2026-01-01T01:00:00.123", US),  # Winter time in Berlin is UTC+1.
        ("2026-07-01 02:00:00", 1_782_864_000_000_000),  # Summer time is UTC+2: 2026-07-01 00:00 in UTC.
        ("2026-03-29T02:30:00", None),  # The clock skips this hour.
        ("2026-10-25T02:30:00", 1_792_888_200_000_000),  # The first of two: 00:30 in UTC.
        ("2026-01-01", 1_767_222_000_000_000),
        ("2026-13-01T00:00:00Z", None),
        ("1969-12-31T23:59:59Z", None),
        ("2100-01-01T00:00:00Z", None),
        ("1767225600123", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_times_in_iso_8601(tmp_path: Path, kind: str, text: str, us: int | None) -> None:
    _write(tmp_path, kind, [EVENT | {"ts": text}])
    frame = _read(tmp_path, kind, time_unit="iso8601", time_zone="Europe/Berlin")
    assert frame["event_time_us"].to_list() == [us]
    assert frame["dropped"].to_list() == [None if us is not None else "bad_time"]


@pytest.mark.parametrize(
    ("array", "unit"),
    [
        (pa.array([US * 1000 + 999], pa.timestamp("ns", "UTC")), "iso8601"),
        (pa.array([US // 1000], pa.timestamp("ms", "America/New_York")), "s"),
        (pa.array([US + 3_600_000_000], pa.timestamp("us")), "iso8601"),  # In Berlin, an hour ahead of UTC.
        (pa.array([US / 1e6]), "s"),
        (pa.array([US], pa.int64()), "us"),
        (pa.array([Decimal("1767225600.123")]), "s"),
    ],
    ids=str,
)
def test_times_in_the_types_of_parquet(tmp_path: Path, array: pa.Array, unit: str) -> None:
    table = pa.Table.from_pylist([EVENT]).drop_columns("ts").append_column("ts", array)
    pq.write_table(table, tmp_path / "a.parquet")
    frame = _read(tmp_path, "parquet", time_unit=unit, time_zone="Europe/Berlin")
    assert frame["event_time_us"].to_list() == [US]


def test_numbers_are_not_times_in_iso8601(tmp_path: Path) -> None:
    _write(tmp_path, "parquet", [EVENT])
    says = "column 'ts' is Int64, expected text in ISO 8601 or a timestamp; check the config's time_unit"
    assert says in _refused(tmp_path, "parquet", time_unit="iso8601")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_text_that_is_not_utf8_drops_the_rows_that_need_it(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, kind, [EVENT | {"topic": "T", "other": "O"}])
    (*head, row) = path.read_bytes().splitlines(keepends=True)
    rows = [row, row.replace(b"T", b"\xff"), row.replace(b"O", b"\xff"), row.replace(b"2.5", b'"\xe6"')]
    path.write_bytes(b"".join([*head, *rows]))
    frame = _read(tmp_path, kind)
    assert frame["dropped"].to_list() == [None, "bad_topic", None, "bad_age"]
    assert frame["topic"].to_list() == ["T", None, "T", "T"]
    assert frame["content"].n_unique() == 4


def test_text_in_parquet_that_is_not_utf8_drops_its_row(tmp_path: Path) -> None:
    topics = pa.array([b"T", b"\xff", None], pa.binary())
    table = pa.Table.from_pylist([EVENT] * 3).drop_columns("topic")
    pq.write_table(table.append_column("topic", topics.view(pa.string())), tmp_path / "a.parquet")
    frame = _read(tmp_path, "parquet")
    assert frame["topic"].to_list() == ["T", None, None]
    assert frame["dropped"].to_list() == [None, "bad_topic", None]


def test_a_line_of_json_that_is_not_an_event_is_dropped(tmp_path: Path) -> None:
    good = json.dumps(EVENT)
    lines = {
        good: None,
        "[1]": "bad_row",
        "{": "bad_row",
        "[" * 100_000: "bad_row",
        "{}": "bad_time",
        good.replace(str(ID), "[7]"): "bad_user",
        good.replace('"x"', '{"y": [1, null]}'): None,
        good.replace('"x"', '"\\ud800"'): None,
        good.replace("61.5", "Infinity"): "bad_seconds",
        good.replace("61.5", '"\\ud800"'): "bad_seconds",
        good.replace(str(EVENT["ts"]), "9" * 5_000): "bad_time",
    }
    (tmp_path / "a.jsonl").write_text("\n\r\n".join(lines) + "\n")
    assert _read(tmp_path, "jsonl")["dropped"].to_list() == list(lines.values())


def test_only_the_line_of_csv_that_is_not_a_row_is_dropped(tmp_path: Path) -> None:
    lines = [line.decode() for line in _csv([EVENT | {"topic": "T"}]).splitlines()]
    good = lines[1]
    rows = {
        good: None,
        good + ",": "bad_row",
        "1,2": "bad_row",
        good.replace("T", '"T'): "bad_row",
        good.replace("T", '"T"T'): "bad_row",
        good.replace("T", '"T"'): None,
        good.replace("T", "x" * 200_000): "bad_row",
        good.replace("T", "\0"): None,
    }
    path = tmp_path / "a.csv"
    path.write_text(
        "\ufeff" + "\r\n".join([lines[0], *rows])
    )  # As a spreadsheet writes it, without a line end at the end.
    assert _read(tmp_path)["dropped"].to_list() == list(rows.values())


@pytest.mark.parametrize("kind", ["csv", "csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quoted_field_may_hold_line_ends(tmp_path: Path, kind: str, end: str) -> None:
    topics = ["one\ntwo", "\n\n", 'a, \n,,\n"b"\n', "whole"]
    events = [EVENT | {"uid": i, "topic": topic} for i, topic in enumerate(topics)]
    path = tmp_path / f"a.{kind}"
    # Blank lines are not rows, but those within a field belong to its text.
    text = _csv(events, quoted=set(',"\n')).decode().replace("\n", end)
    path.write_bytes(_packed(kind, f"{end}{text}{end}".encode()))
    frame = _read(tmp_path, kind)
    assert frame["topic"].to_list() == [topic.replace("\n", end) for topic in topics]
    assert frame["user"].to_list() == [0, 1, 2, 3]
    assert frame["dropped"].to_list() == [None] * 4
    assert frame["content"].n_unique() == 4


def test_a_stray_quote_swallows_no_other_row(tmp_path: Path) -> None:
    header, good = _csv([EVENT | {"topic": "T"}]).decode().splitlines()
    opened, closed = good.replace("T", '"T'), good.replace("T", 'T"')
    # The two quotes could enclose one field, but a good row stands between them.
    lines = [opened, good, closed, good, opened, good]
    (tmp_path / "a.csv").write_text("\n".join([header, *lines]) + "\n")
    frame = _read(tmp_path)
    assert frame["dropped"].to_list() == ["bad_row", None, None, None, "bad_row", None]
    assert frame["topic"].to_list() == [None, "T", 'T"', "T", None, "T"]


def test_a_quote_that_is_never_closed_is_searched_no_further_than_a_mebibyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.pipeline.sources.formats._MAX_LINE", 200)
    header, good = _csv([EVENT | {"topic": "T"}]).decode().splitlines()
    text = "\n".join([header, good.replace("T", '"' + "no row\n" * 40 + '"'), good])
    (tmp_path / "a.csv").write_text(text)
    frame = _read(tmp_path)
    # The field is too long: its lines are bad rows, of which the last one is the rest of the row.
    assert frame["dropped"].to_list() == ["bad_row"] * 41 + [None]


@settings(max_examples=50, deadline=None)
@given(
    kind=st.sampled_from(["csv", "jsonl"]),
    edits=st.lists(
        st.tuples(
            st.integers(0, 500),
            st.sampled_from([b"\n", b"\r", b",", b'"', b"\\", b"}", b"9", b"\0", b"\xff"]),
        ),
        max_size=4,
    ),
)
def test_a_damaged_line_harms_no_other_line(
    tmp_path_factory: pytest.TempPathFactory, kind: str, edits: list[tuple[int, bytes]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    path = _write(folder, kind, [EVENT | {"uid": i} for i in range(6)])
    head, data = path.read_bytes().split(b"\n", 1)  # The header, or the first event.
    whole = {line: i for i, line in enumerate(data.split(b"\n")[:-1], start=kind == "jsonl")}
    for at, new in edits:
        data = data[:at] + new + data[at + 1 :]
    path.write_bytes(head + b"\n" + data)
    lines = [line for line in data.split(b"\n") if line.strip(b"\r")]
    read = _read_or_refused(folder, kind)
    if isinstance(read, str):
        assert "is truncated" in read
        assert not data.endswith(b"\n")
        return
    rows = read.drop("content").to_dicts()[kind == "jsonl" :]
    undamaged = [READ | {"user": whole[line], "dropped": None} for line in lines if line in whole]
    following = iter(rows)
    assert all(row in following for row in undamaged)  # In this order.
    if kind == "csv" and any(new == b"\n" for _, new in edits):
        # A line end within a quoted field does not begin a row.
        assert len(undamaged) <= len(rows) <= len(lines)
    else:
        assert len(rows) == len(lines)


@settings(max_examples=50, deadline=None)
@given(
    kind=st.sampled_from(["parquet", "csv.gz", "jsonl.zst"]),
    cut=st.one_of(st.none(), st.integers(0, 2_000)),
    edits=st.lists(st.tuples(st.integers(0, 2_000), st.binary(min_size=1, max_size=3)), max_size=4),
)
def test_damaged_bytes_are_refused_in_one_line_or_read_as_rows(
    tmp_path_factory: pytest.TempPathFactory, kind: str, cut: int | None, edits: list[tuple[int, bytes]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "bytes"
    folder.mkdir(exist_ok=True)
    path = _write(folder, kind, [EVENT | {"uid": i} for i in range(6)])
    whole = data = path.read_bytes()
    for at, new in edits:
        at %= len(data)
        data = data[:at] + new + data[at + len(new) :]
    path.write_bytes(data[:cut])
    read = _read_or_refused(folder, kind)
    if isinstance(read, str):
        assert str(path) in read
        assert "\n" not in read
        assert path.read_bytes() != whole
    else:
        assert read.columns == ["event_time_us", *_files().columns(), "content", "dropped"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_named(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, kind, [EVENT] * 3)
    path.write_bytes(path.read_bytes()[:-15])
    packed = "." in kind or kind in ("parquet", "tfrecord")
    says = _refused(tmp_path, kind)
    assert says.startswith(
        f"cannot read {path}: " if packed else f"{path} is truncated: its last line ends within"
    )
    assert says.endswith("fetch it again")
    if packed:
        assert f"expected a complete .{kind} file" in says


@pytest.mark.parametrize("left", [1, 7, 8, 11])
def test_a_file_that_ends_within_the_head_of_a_record_is_named(tmp_path: Path, left: int) -> None:
    path = _write(tmp_path, "tfrecord", [EVENT])
    one = path.read_bytes()
    for whole in (b"", one):
        path.write_bytes(whole + one[:left])
        says = _refused(tmp_path, "tfrecord")
        assert says.startswith(f"cannot read {path}: truncated record: it has {left} of the 12 bytes")


def test_a_parquet_file_with_a_column_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "parquet", [EVENT])
    path.write_bytes(path.read_bytes().replace(b"other", b"oth\xffr"))
    assert _refused(tmp_path, "parquet").startswith(f"cannot read {path}: 'utf-8' codec can't decode")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_another_kind_is_named(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, kind, [EVENT])
    path.write_bytes(b"PK\3\4\0\xff" * 20 + b"\n")
    assert str(path) in _refused(tmp_path, kind)
    path.write_bytes(b"")
    if not kind.startswith(("jsonl", "tfrecord")):  # An empty one has no events, and needs no header.
        assert str(path) in _refused(tmp_path, kind)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("raw", "fields"), [("uid", {}), ("when", {"event_time": "when"})])
def test_a_missing_column_is_named_with_the_columns_that_exist(
    tmp_path: Path, kind: str, raw: str, fields: dict[str, str]
) -> None:
    events = [{name: value for name, value in EVENT.items() if name != "uid"}] * 2
    if raw == "when":
        events = [EVENT]
    path = _write(tmp_path, kind, events)
    says = _refused(tmp_path, kind, **fields)
    use = "the time" if raw == "when" else "user"
    assert says.startswith(f"{path} has no column '{raw}', which is read as {use}; it has ")
    assert "'topic'" in says
    assert says.endswith("; name the right column in the config")


def test_a_key_that_some_lines_lack_is_a_null(tmp_path: Path) -> None:
    _write(tmp_path, "jsonl", [{name: value for name, value in EVENT.items() if name != "age"}, EVENT])
    assert _read(tmp_path, "jsonl")["age"].to_list() == [None, 2.5]


def test_a_column_that_occurs_twice_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "csv", [EVENT])
    path.write_bytes(path.read_bytes().replace(b"other", b"uid"))
    assert _refused(tmp_path, "csv").startswith(f"{path} has more than one column 'uid'")


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"x" * (3 << 20)))
    assert f"{path} has no line end in 1,048,576 characters" in _refused(tmp_path, "jsonl.gz")


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_content_covers_the_whole_raw_row(tmp_path: Path, kind: str) -> None:
    _write(tmp_path, kind, [EVENT, EVENT, EVENT | {"other": "y"}])
    content = _read(tmp_path, kind)["content"].to_list()
    assert content[0] == content[1] != content[2]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_raw_columns_may_have_the_names_of_our_columns(tmp_path: Path, kind: str) -> None:
    taken = {"content": "a", "dropped": 7, "example_id": 1, "user": 2}
    _write(tmp_path, kind, [EVENT | taken])
    frame = _read(tmp_path, kind, renamed=(("topic", "content"), ("user", "dropped")))
    assert frame.select("topic", "user", "dropped").rows() == [("a", 7, None)]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_large_file_is_read_in_frames_of_65536_rows_in_order(tmp_path: Path, kind: str) -> None:
    users = pl.DataFrame({"uid": range(70_000)})
    rows = users.with_columns(**{name: pl.lit(value) for name, value in EVENT.items() if name != "uid"})
    path = tmp_path / f"a.{kind}"
    writer = {"parquet": rows.write_parquet, "csv": rows.write_csv, "jsonl": rows.write_ndjson}[kind]
    writer(path)
    source = _files(kind)
    (unit,) = source.units(str(tmp_path), workdir="", days=[])
    frames = list(source.read(unit))
    assert [len(frame) for frame in frames] == [65_536, 4_464]
    assert pl.concat(frames)["user"].to_list() == list(range(70_000))


def test_units_are_the_files_by_name_and_can_be_pickled(tmp_path: Path) -> None:
    for name in ("b", "a", "c/d", "c/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        _write(tmp_path, "csv", [EVENT], name=name)
    (tmp_path / "folder.csv").mkdir()
    source = _files(pattern="**/*.csv")
    units = source.units(str(tmp_path), workdir="", days=[])
    assert [(unit.index, unit.where) for unit in units] == [
        (i, f"{tmp_path}/{name}.csv") for i, name in enumerate(["a", "b", "c/d", "c/e"])
    ]
    assert pickle.loads(pickle.dumps((source, units))) == (source, units)


def _units(folder: Path, pattern: str) -> list[str]:
    return [unit.where for unit in _files(pattern=pattern).units(str(folder), workdir="", days=[])]


def test_a_fifo_and_a_dangling_link_are_skipped_and_named_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = _write(tmp_path, "csv", [EVENT])
    os.mkfifo(tmp_path / "b.csv")
    (tmp_path / "c.csv").symlink_to(tmp_path / "gone.csv")
    assert _units(tmp_path, "*.csv") == [str(good)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: skipped b.csv is a FIFO; c.csv is a link to a file that does not exist"
    ]


def test_a_file_is_read_once_though_a_loop_of_links_leads_to_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").mkdir()
    good = _write(tmp_path / "logs", "csv", [EVENT], name="z")
    (tmp_path / "logs" / "loop").symlink_to(tmp_path / "logs")
    assert _units(tmp_path, "**/*.csv") == [str(good)]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{tmp_path}: skipped logs/loop/z.csv is the same file as logs/z.csv; ")
    assert re.search(r"; and \d+ more$", message)


def test_a_link_to_a_file_is_read_as_the_file_if_it_is_the_only_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "raw").mkdir()
    stored = _write(tmp_path / "store", "csv", [EVENT])
    (tmp_path / "raw/b.csv").symlink_to(stored)
    assert _units(tmp_path / "raw", "*.csv") == [f"{tmp_path}/raw/b.csv"]
    assert not caplog.records


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_name_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, kind, [EVENT])
    os.rename(path, os.fsencode(tmp_path) + f"/\udcff.{kind}".encode(errors="surrogateescape"))
    name = f"b'{tmp_path}/\\xff.{kind}'"
    assert _refused(tmp_path, kind) == f"{name}: this path is not UTF-8; rename the file or folder"


DAY_MS = 86_400_000


@pytest.mark.parametrize("typed", ["ms", "timestamp", "local"])
def test_a_parquet_file_of_other_days_is_counted_and_not_read(tmp_path: Path, typed: str) -> None:
    for name, offsets in {"a": [-2, -1], "b": [-1, 0], "c": [1, 3], "d": [3]}.items():
        times = pl.Series([EVENT["ts"] + offset * DAY_MS for offset in offsets])
        if typed != "ms":
            times = pl.from_epoch(times, time_unit="ms").dt.replace_time_zone("UTC")
        if typed == "local":
            times = times.dt.convert_time_zone("Europe/Berlin").dt.replace_time_zone(None)
        rows = pl.DataFrame([EVENT] * len(offsets)).with_columns(ts=times)
        rows.write_parquet(tmp_path / f"{name}.parquet", row_group_size=1)
    source = _files("parquet", time_zone="Europe/Berlin" if typed == "local" else "UTC")
    days = [
        date(2026, 1, 1),
        date(2026, 1, 3),
    ]  # The second day lies within the range of c, though c has no row of it.
    units = source.units(str(tmp_path), workdir="", days=days)
    assert [(unit.index, unit.where, unit.rows_outside) for unit in units] == [
        (0, f"{tmp_path}/b.parquet", 0),
        (1, f"{tmp_path}/c.parquet", 0),
        (2, "2 files of other days", 2 + 1),
    ]
    lake = Lake(tmp_path / "lake", SCHEMA)
    lake.create()
    done = materialize(source, SCHEMA, lake, raw_dir=str(tmp_path), workdir=str(tmp_path), days=days[:1])
    # a, c and d have 2 + 2 + 1 rows that are not read; one of the two rows of b is of the day before.
    assert done.elsewhere == {"outside_days": 6}
    assert (done.days[days[0]].kept, done.rows_in) == (1, 7)


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([EVENT["ts"] - 9 * DAY_MS, None], "ms"),
        ([EVENT["ts"] - 9 * DAY_MS, -1], "ms"),
        (pl.Series([EVENT["ts"] - 9 * DAY_MS, 2**63], dtype=pl.UInt64), "ms"),
        (pl.Series([EVENT["ts"] - 9 * DAY_MS, 2**62]).cast(pl.Datetime("ms")), "iso8601"),
        ([float(EVENT["ts"] - 9 * DAY_MS), float("nan")], "ms"),
        (["2025-01-01T00:00:00", "soon"], "iso8601"),
    ],
)
def test_a_parquet_file_that_may_hold_a_bad_time_is_read(tmp_path: Path, times: list[Any], unit: str) -> None:
    rows = pl.DataFrame([EVENT] * 2).with_columns(ts=pl.Series(times))
    rows.write_parquet(tmp_path / "a.parquet")
    source = _files("parquet", time_unit=unit)
    (only,) = source.units(str(tmp_path), workdir="", days=[date(2026, 1, 1)])
    assert only.rows_outside == 0
    assert pl.concat(source.read(only))["dropped"].to_list() == [None, "bad_time"]


def test_a_record_that_is_not_an_event_is_dropped(tmp_path: Path) -> None:
    good = _example(EVENT)
    lists = tf.train.Example.FromString(good)
    lists.features.feature["uid"].int64_list.value.append(7)
    text = tf.train.Example.FromString(good)
    text.features.feature["topic"].bytes_list.value[0] = b"\xff"
    huge = _example(EVENT | {"age": float("inf")})
    records = {
        good: None,
        b"\xff\xff": "bad_row",
        lists.SerializeToString(): "bad_user",
        text.SerializeToString(): "bad_topic",
        huge: "bad_age",
        b"": "bad_time",
    }
    _write_records(tmp_path / "a.tfrecord", list(records))
    frame = _read(tmp_path, "tfrecord")
    assert frame["dropped"].to_list() == list(records.values())
    assert frame["content"].n_unique() == len(records)


def test_a_file_without_a_tf_example_is_named(tmp_path: Path) -> None:
    _write_records(tmp_path / "a.tfrecord", [b"\xff"])
    assert _refused(tmp_path, "tfrecord") == (
        f"{tmp_path}/a.tfrecord has no tf.Example in its first 1 rows; expected each record to be one"
    )


def test_a_delta_table_is_read_as_it_is_now(tmp_path: Path) -> None:
    # The name of a partition is escaped in the path, and an old row was overwritten.
    old, new = pl.DataFrame([EVENT | {"topic": "a b:c", "uid": 1}]), pl.DataFrame([EVENT, EVENT | {"uid": 2}])
    write_deltalake(tmp_path / "events", old, partition_by=["topic"])
    write_deltalake(tmp_path / "events", new.with_columns(topic=pl.lit("a b:c")), mode="overwrite")
    write_deltalake(tmp_path / "events", new.with_columns(topic=pl.lit("d"), uid=3), mode="append")
    frame = _read(tmp_path, pattern="events/").sort("user", "topic")
    assert frame.select("user", "topic", "dropped").rows() == [
        (2, "a b:c", None),
        (3, "d", None),
        (3, "d", None),
        (ID, "a b:c", None),
    ]


@pytest.mark.parametrize("part", ["../secret.parquet", "a/../../secret.parquet", "%2E%2E/secret.parquet"])
def test_a_delta_log_that_names_a_file_outside_its_table_is_refused(tmp_path: Path, part: str) -> None:
    write_deltalake(tmp_path / "events", pl.DataFrame([EVENT]))
    pl.DataFrame([EVENT]).write_parquet(tmp_path / "secret.parquet")
    (log,) = (tmp_path / "events" / "_delta_log").glob("*.json")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    for entry in entries:
        if "add" in entry:
            entry["add"]["path"] = part
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    says = rf"^{tmp_path}/events: its Delta log names the file '.*secret\.parquet', expected a path below the table's"
    with pytest.raises(UserError, match=says):
        _read(tmp_path, pattern="events/")


def test_a_delta_log_that_names_a_file_by_its_absolute_path_is_refused(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "events", pl.DataFrame([EVENT]))
    (log,) = (tmp_path / "events" / "_delta_log").glob("*.json")
    log.write_text(log.read_text().replace('"path":"', f'"path":"{tmp_path}/events/'))
    with pytest.raises(UserError, match="expected a path below the table's folder"):
        _read(tmp_path, pattern="events/")


def test_days_of_a_delta_table_that_are_not_requested_are_not_read(tmp_path: Path) -> None:
    for day in range(3):
        frame = pl.DataFrame([EVENT | {"ts": EVENT["ts"] + day * DAY_MS}])
        write_deltalake(tmp_path / "events", frame, mode="append")
    source = _files(pattern="events/")
    units = source.units(str(tmp_path), workdir="", days=[date(2026, 1, 2)])
    assert [unit.rows_outside for unit in units] == [0, 2]
    (frame,) = source.read(units[0])
    assert frame["event_time_us"].to_list() == [US + DAY_MS * 1000]


def test_a_delta_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "events", pl.DataFrame([EVENT]))
    (log,) = (tmp_path / "events" / "_delta_log").glob("*.json")
    whole = log.read_text()
    log.write_text(whole[:100])
    with pytest.raises(UserError, match=f"^cannot read {tmp_path}/events: "):
        _read(tmp_path, pattern="events/")
    log.write_text(whole)
    Path(DeltaTable(tmp_path / "events").file_uris()[0]).unlink()
    with pytest.raises(
        UserError, match=r"^cannot read .*\.parquet: .*; expected a complete .* file; fetch it"
    ):
        _read(tmp_path, pattern="events/")


def test_a_delta_table_whose_files_hold_deleted_rows_is_refused(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "events", pl.DataFrame([EVENT]))
    (log,) = (tmp_path / "events" / "_delta_log").glob("*.json")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    for entry in entries:
        if "protocol" in entry:
            features = ["deletionVectors"]
            entry["protocol"] = {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": features,
                "writerFeatures": features,
            }
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    says = f"{tmp_path}/events has Delta's deletionVectors, which is not supported; write it without"
    with pytest.raises(UserError) as error:
        _read(tmp_path, pattern="events/")
    assert str(error.value) == says


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    assert _refused(tmp_path, "csv") == (
        f"no files *.csv in {str(tmp_path)!r}; check --raw_dir and the config's pattern"
    )
    assert "nowhere', which is not a folder; check" in _refused(tmp_path / "nowhere", "csv")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"pattern": "*.tsv"},
            r"pattern is '\*\.tsv', expected a path below --raw_dir that ends in \.parquet",
        ),
        ({"pattern": "/logs/*.csv"}, r"pattern is '/logs/\*\.csv', expected a path below --raw_dir"),
        ({"pattern": "../*.csv"}, r"pattern is '\.\./\*\.csv', expected a path below --raw_dir"),
        ({"time_unit": "ns"}, "time_unit is 'ns', expected 's', 'ms', 'us' or 'iso8601'"),
        ({"time_zone": "Mars"}, "time_zone is 'Mars', expected an IANA name"),
        (
            {"renamed": (("uid", "user"),)},
            "renamed has 'uid', expected .* each once in renamed or expressions: user, topic, age, click",
        ),
        ({"renamed": (("user", "a"), ("user", "b"))}, "renamed has 'user', expected .* each once"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"Files: {says}"):
        _files(**fields)


def test_the_job_keeps_or_counts_every_row(tmp_path: Path) -> None:
    day, second = datetime(2026, 1, 2, tzinfo=UTC), 1_000
    start = int(day.timestamp()) * second
    rows = [
        *(EVENT | {"uid": ID + i, "ts": start + i} for i in range(5)),
        EVENT | {"uid": ID, "ts": start},  # The first one again.
        EVENT | {"uid": ID, "ts": start, "other": "y"},
        EVENT | {"uid": "", "ts": start},
        EVENT | {"uid": "x", "ts": start},
        EVENT | {"seconds": "nan", "ts": start},
        EVENT | {"seconds": "inf", "ts": start},
        EVENT | {"ts": start - 1},
        EVENT | {"ts": "soon"},
    ]
    path = _write(tmp_path, "csv", rows)
    path.write_bytes(path.read_bytes() + b"1,2\n")
    lake = Lake(tmp_path / "lake", SCHEMA)
    lake.create()
    done = materialize(
        _files("csv"), SCHEMA, lake, raw_dir=str(tmp_path), workdir=str(tmp_path), days=[day.date()]
    )
    counts = done.days[day.date()]
    assert (counts.rows_in, counts.kept) == (11, 5)
    assert counts.dropped == {
        "bad_key": 1,
        "bad_label": 1,
        "bad_seconds": 1,
        "bad_user": 1,
        "conflicting_duplicate": 1,
        "duplicate": 1,
    }
    assert done.elsewhere == {"bad_row": 1, "bad_time": 1, "outside_days": 1}
    assert done.rows_in == len(rows) + 1
    kept = lake.interactions.scan().collect().sort("user")
    assert kept["user"].to_list() == [ID + i for i in range(5)]
    assert kept["event_time_us"].to_list() == [(start + i) * 1000 for i in range(5)]


def _no_rows(folder: Path, kind: str, source: Files) -> str:
    lake = Lake(folder / "work/lake", SCHEMA)
    lake.create()
    asked = {"raw_dir": str(folder), "workdir": str(folder / "work"), "days": [date(2026, 1, 1)]}
    with pytest.raises(UserError) as error:
        materialize(source, SCHEMA, lake, **asked)
    return str(error.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_label_that_is_read_from_text_is_named_with_the_expression_to_write(
    tmp_path: Path, kind: str
) -> None:
    rows = [{**EVENT, "uid": 1, "verdict": text} for text in ("yes", "it's", "no", "no", "so")]
    _write(tmp_path, kind, [*rows, {**EVENT, "uid": 1, "seconds": -1.0, "verdict": "1"}])
    source = _files(kind, renamed=(("user", "uid"), ("click", "verdict")))
    assert _no_rows(tmp_path, kind, source) == (
        f"no rows for 2026-01-01 in {tmp_path}: all 6 rows that may be theirs were dropped (5 bad_click, "
        "1 bad_seconds); of the other days, 0 were committed. Column 'verdict', which is read as click (Int8), holds "
        "'yes', \"it's\", 'no': name another column, or say in the config which are what, as in "
        "expressions=(('click', \"verdict IN ('yes')\"),)"
    )


@pytest.mark.parametrize(
    ("column", "values", "label", "says"),
    [
        ("my stars", [3, 5, 4], "click", """(('click', '"my stars" >= 5'),)"""),
        ("taste", ["it's", "no"], "click", """(('click', "taste IN ('it''s')"),)"""),
        ("profit", [-1.5, -2], "seconds", "(('seconds', 'GREATEST(profit, 0)'),)"),
        (
            "stars",
            ["five", "one"],
            "seconds",
            """(('seconds', "CASE stars WHEN 'five' THEN 1 ELSE 0 END"),)""",
        ),
    ],
)
def test_the_expression_that_a_message_proposes_can_be_written(
    tmp_path: Path, column: str, values: list[Any], label: str, says: str
) -> None:
    _write(tmp_path, "csv", [{**EVENT, column: value} for value in values])
    fields: dict[str, Any] = {"renamed": (("user", "uid"), (label, column))}
    message = _no_rows(tmp_path, "csv", _files(**fields))
    assert message.endswith(f"expressions={says}")
    frame = _read(tmp_path, renamed=(("user", "uid"),), expressions=ast.literal_eval(says))
    assert frame["dropped"].null_count() == len(values)
    assert frame[label].to_list()[0] == {"profit": 0.0, "my stars": 0}.get(column, 1)


def test_the_values_of_a_label_are_found_after_a_file_without_rows(tmp_path: Path) -> None:
    rows = [{**EVENT, "verdict": "yes"}]
    pl.DataFrame(rows).clear().write_parquet(tmp_path / "a.parquet")
    _write(tmp_path, "parquet", rows, name="b")
    source = _files("parquet", renamed=(("user", "uid"), ("click", "verdict")))
    assert "which is read as click (Int8), holds 'yes': name" in _no_rows(tmp_path, "parquet", source)


def test_where_no_row_is_left_the_values_that_an_expression_read_are_named(tmp_path: Path) -> None:
    _write(tmp_path, "csv", [{**EVENT, "bought": day} for day in ("2026-01-03", "soon")])
    source = _files(expressions=(("click", "bought > ts"),))
    assert _no_rows(tmp_path, "csv", source).endswith(
        "(2 bad_click); of the other days, 0 were committed. Correct the expression of click, 'bought > ts': 'bought' "
        "holds '2026-01-03', 'soon'; 'ts' holds '1767225600123', '1767225600123'"
    )


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "tfrecord"])
@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("event IN ('like', 'share')", ["like", "view", "share", "", "9"], [1, 0, 1, None, 0]),
        ("rating >= 4", ["4", "3.5", "10", "", "9"], [1, 0, 1, None, 1]),
        ("age >= 2 AND event = 'like'", ["like", "view", ""], [1, 0, None]),
        ("event <> ''", ["like", ""], [1, None]),
        ("event IS NOT NULL", ["2026-01-01", ""], [1, 0]),
        ("NOT event", ["true", "false", "1", "0", ""], [0, 1, 0, 1, None]),
        ("CASE WHEN event THEN 1 ELSE 0 END", ["true", "false", "1", ""], [1, 0, 1, 0]),
        ("rating > age", ["10", "2.25"], [1, 0]),  # As text, "10" is before "2.5".
        ("event = 'x' AND rating > age OR event IS NULL", ["10", ""], [0, 1]),
        ("1", ["like", ""], [1, 1]),
    ],
)
def test_a_label_by_expression_is_what_sql_says(
    tmp_path: Path, kind: str, text: str, values: list[str], expected: list[int | None]
) -> None:
    rating = values if "rating >" in text else ["3"] * len(values)
    rows = [{**EVENT, "event": e, "rating": r} for e, r in zip(values, rating, strict=True)]
    if "parquet" in kind:
        rows = [{name: value if value != "" else None for name, value in row.items()} for row in rows]
    _write(tmp_path, kind, rows)
    frame = _read(tmp_path, kind, expressions=(("click", text),))
    assert frame["click"].to_list() == expected
    assert frame["dropped"].null_count() == len(values)
    assert frame.schema["click"] == pl.Int8


def test_features_may_be_expressions_too_and_raw_columns_may_be_read_twice(tmp_path: Path) -> None:
    rows = [{**EVENT, "event": event, "ms": ms} for event, ms in (("like", 61_500), ("view", None))]
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    expressions = (
        ("click", "event = 'like'"),
        ("topic", "event || '/' || other"),
        ("seconds", "COALESCE(ms, 0) / 1000"),
        ("age", "ms"),
        ("user", "uid - 1"),
    )
    frame = _read(tmp_path, "parquet", renamed=(), expressions=expressions)
    read = frame.select("user", "topic", "age", "click", "seconds", "dropped").rows()
    assert read == [(ID - 1, "like/x", 61_500.0, 1, 61.5, None), (ID - 1, "view/x", None, 0, 0.0, None)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_text_that_is_no_number_and_a_result_that_is_no_label_drop_their_rows(
    tmp_path: Path, kind: str
) -> None:
    _write(tmp_path, kind, [{**EVENT, "stars": stars} for stars in ("5", "five", "4", "0", "nan")])
    click = _read(tmp_path, kind, expressions=(("click", "stars > 4"), ("seconds", "stars - 1")))
    assert click["click"].to_list() == [1, None, 0, 0, None]
    assert click["dropped"].to_list() == [None, "bad_click", None, "bad_seconds", None]
    plain = _read(tmp_path, kind, expressions=(("click", "stars"),))
    assert plain["dropped"].to_list() == ["bad_click", "bad_click", "bad_click", None, "bad_click"]


def test_a_nan_of_parquet_is_a_null_in_an_expression(tmp_path: Path) -> None:
    values = [4.0, float("nan"), None]
    pl.DataFrame([{**EVENT, "stars": 0.0}] * 3).with_columns(stars=pl.Series(values)).write_parquet(
        tmp_path / "a.parquet"
    )
    frame = _read(tmp_path, "parquet", expressions=(("click", "stars >= 4"), ("seconds", "stars / 0")))
    assert frame["click"].to_list() == [1, None, None]
    assert frame["dropped"].to_list() == ["bad_seconds", None, None]


def test_text_that_is_not_utf8_is_bad_in_an_expression(tmp_path: Path) -> None:
    path = _write(tmp_path, "csv", [EVENT | {"other": "O"}] * 2)
    path.write_bytes(path.read_bytes().replace(b"O", b"\xff", 1))
    assert _read(tmp_path, expressions=(("click", "other = 'O'"),))["dropped"].to_list() == [
        "bad_click",
        None,
    ]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_column_that_an_expression_lacks_is_named_with_it(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, kind, [EVENT])
    says = _refused(tmp_path, kind, expressions=(("click", "evnt IN ('like')"),))
    assert says.startswith(
        f"{path} has no column 'evnt', which the expression \"evnt IN ('like')\" reads; it has "
    )
    assert says.endswith("; name the right column in the config")


def test_an_expression_that_the_types_of_parquet_do_not_fit_is_named_with_them(tmp_path: Path) -> None:
    path = _write(tmp_path, "parquet", [EVENT])
    assert _refused(tmp_path, "parquet", expressions=(("click", "age IN ('x')"),)).startswith(
        f"{path}: the expression \"age IN ('x')\": "
    )
    assert "; it reads age (Float64); correct it in the config" in _refused(
        tmp_path, "parquet", expressions=(("click", "age IN ('x')"),)
    )


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_the_frames_that_a_file_is_read_in_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    monkeypatch.setattr("tutelage.pipeline.sources.formats._ROWS", cut)
    _write(tmp_path, "csv", [{**EVENT, "stars": stars} for stars in ("1", "x", "10", "")])
    frame = _read(tmp_path, expressions=(("click", "stars > 4"), ("seconds", "stars / 3")))
    assert frame["click"].to_list() == [0, None, 1, None]
    assert frame["dropped"].to_list() == [None, "bad_click", None, None]
    assert frame["seconds"].to_list() == pytest.approx([1 / 3, None, 10 / 3, None])


NUMBERS = st.one_of(st.none(), st.integers(-9, 99), st.floats(-9, 99).map(lambda x: round(x, 2)))


@settings(max_examples=30)
@given(
    rows=st.lists(
        st.tuples(NUMBERS, NUMBERS, st.sampled_from(["like", "view", None])), min_size=1, max_size=9
    )
)
def test_a_csv_and_a_parquet_file_of_the_same_rows_give_the_labels_that_python_computes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float | None, float | None, str | None]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "labels"
    folder.mkdir(exist_ok=True)
    events = [{**EVENT, "a": a, "b": b, "event": event} for a, b, event in rows]
    schema = {"a": pl.Float64, "b": pl.Float64, "event": pl.String}
    pl.DataFrame(events, schema_overrides=schema).write_parquet(folder / "a.parquet")
    _write(folder, "csv", events)
    text = "(a > b AND event = 'like') OR a + b > 50"

    def label(a: float | None, b: float | None, event: str | None) -> int | None:
        order = None if a is None or b is None else a > b
        like = None if event is None else event == "like"
        both = False if order is False or like is False else None if order is None or like is None else True
        total = None if a is None or b is None else a + b > 50
        either = True if both or total else None if both is None or total is None else False
        return None if either is None else int(either)

    for kind in ("csv", "parquet"):
        frame = _read(folder, kind, expressions=(("click", text),))
        assert frame["click"].to_list() == [label(*row) for row in rows]
        assert frame["dropped"].null_count() == len(rows)
