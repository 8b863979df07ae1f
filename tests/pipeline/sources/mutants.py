"""The worst event files that logs have, in every format; for each value it is known what must be read."""

import gzip
import json
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from deltalake import write_deltalake

from tutelage.pipeline.schema import Feature, Schema, Task

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="topic", dtype="string", capacity=10),
        Feature(name="age", dtype="float32"),
        Feature(name="tags", dtype="int64", capacity=10, length=2),
    ),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="seconds", kind="log1p")),
    key=("user", "event_time_us"),
)
TEXT = ("csv", "csv.gz", "csv.zst", "jsonl", "jsonl.gz", "jsonl.zst")
FORMATS = ("parquet", "delta", "tfrecord", "tfrecord.gz", *TEXT)
ID = 2**53 + 1  # No float64 can hold it.
NAN, INF = float("nan"), float("inf")
MS = 1_767_225_600_123  # 2026-01-01 00:00:00.123 in UTC
US = MS * 1000
DAY_MS = 86_400_000
# The raw name of each column, and our name.
OURS = {
    "ts": "event_time_us",
    "uid": "user",
    "topic": "topic",
    "age": "age",
    "tags": "tags",
    "click": "click",
    "seconds": "seconds",
}
Row = dict[str, Any]
"""Our columns; in place of a value that does not fit stands the reason why its row is dropped."""
# A raw value, and what it must be read as.
Cells = Sequence[tuple[Any, Any]]

_ISO: Cells = [
    ("2026-01-01T00:00:00.123Z", US),
    ("2026-01-01T01:00:00.123+01:00", US),
    ("2025-12-31 22:30:00.123-0130", US),
    ("2026-01-01T00:00:00.123", US),  # In the time zone of the config, UTC.
    ("2026-01-02T00:00:00.123+09:00", US + (DAY_MS - 9 * 3_600_000) * 1000),
    ("2026-01-03T00:00:00.123", US + 2 * DAY_MS * 1000),
    ("1969-12-31T23:59:59Z", "bad_time"),
    ("2026-01-01T25:00:00Z", "bad_time"),
    ("2100-01-01T00:00:00Z", "bad_time"),
    (str(MS), "bad_time"),
    ("\udcff", "bad_time"),
    ("", "bad_time"),
]
_STRINGS: dict[str, Cells] = {
    "ts": [
        (str(MS), US),
        (f"{MS}.5", US + 500),
        (str(MS + DAY_MS), US + DAY_MS * 1000),
        ("0", 0),
        ("-1", "bad_time"),
        ("4102444800000", "bad_time"),
        ("9" * 400, "bad_time"),
        ("nan", "bad_time"),
        ("2026-01-01", "bad_time"),
        ("", "bad_time"),
    ],
    "uid": [
        ("7", 7),
        ("-7", -7),
        (f"{ID}.0", ID),
        (str(2**63 - 1), 2**63 - 1),
        ("", None),
        (str(2**63), "bad_user"),
        ("7.5", "bad_user"),
        ("1e3", "bad_user"),
        ("7\udcff", "bad_user"),
        ("true", 1),
    ],
    "topic": [("a", "a"), ("日, \"b'", "日, \"b'"), ("7.0", "7.0"), ("", None), ("a\udcff", "bad_topic")],
    "age": [
        ("3", 3.0),
        ("1e2", 100.0),
        ("", None),
        ("nan", None),
        ("-inf", "bad_age"),
        ("1e39", "bad_age"),
        ("1e999", "bad_age"),
        ("old", "bad_age"),
    ],
    "tags": [
        ("[1, 2]", [1, 2]),
        (f'["{ID}", null]', [ID]),
        ("[]", []),
        ("", None),
        ("[1", "bad_tags"),
        ("7", "bad_tags"),
        ("[[1]]", "bad_tags"),
        ("[1.5]", "bad_tags"),
        ("[" * 5_000, "bad_tags"),
        (f"[{2**63}]", "bad_tags"),
    ],
    "click": [
        ("0", 0),
        ("1", 1),
        ("1.0", 1),
        ("False", 0),
        ("", None),
        ("2", "bad_click"),
        ("-1", "bad_click"),
        ("257", "bad_click"),
        ("nan", "bad_click"),
        ("yes", "bad_click"),
    ],
    "seconds": [
        ("0", 0.0),
        ("61.5", 61.5),
        ("", None),
        ("NaN", None),
        ("-0.5", "bad_seconds"),
        ("inf", "bad_seconds"),
        ("-1e999", "bad_seconds"),
    ],
}
_JSON: dict[str, Cells] = {
    "ts": [(MS, US), (float(MS) + 0.5, US + 500), (-1, "bad_time"), (1e300, "bad_time"), ([MS], "bad_time")],
    "uid": [
        (ID, ID),
        (7.0, 7),
        (True, 1),
        (None, None),
        (NAN, "bad_user"),
        (2**64, "bad_user"),
        ([7], "bad_user"),
    ],
    "topic": [(7, "7"), (True, "true"), (None, None), ({"a": 1}, "bad_topic"), ("\ud800", "bad_topic")],
    "age": [
        (2.5, 2.5),
        (3, 3.0),
        (None, None),
        (NAN, None),
        (INF, "bad_age"),
        (1e39, "bad_age"),
        ({}, "bad_age"),
    ],
    "tags": [([1, 2, 3], [1, 2, 3]), ([], []), ([None, True, "7"], [1, 7]), (None, None), ([{}], "bad_tags")],
    "click": [
        (0, 0),
        (1.0, 1),
        (True, 1),
        (None, None),
        (2, "bad_click"),
        (NAN, "bad_click"),
        ([], "bad_click"),
    ],
    "seconds": [(61.5, 61.5), (None, None), (NAN, None), (-1, "bad_seconds"), (INF, "bad_seconds")],
}
# A feature of tf.Example: the field of its kind, and its values; None: the feature exists without a value.
_EXAMPLES: dict[str, Cells] = {
    "ts": [
        (("int64", [MS]), US),
        (("float", [0.0]), 0),
        (("int64", [-(2**63)]), "bad_time"),
        (("float", [NAN]), "bad_time"),
        (("int64", [MS, MS]), "bad_time"),
        (("int64", []), "bad_time"),
        (("bytes", [b"\xff"]), "bad_time"),
        (None, "bad_time"),
    ],
    "uid": [
        (("int64", [ID]), ID),
        (("float", [7.0]), 7),
        (("bytes", [b"7"]), 7),
        (("int64", []), None),
        (None, None),
        (("float", [7.5]), "bad_user"),
        (("float", [1e20]), "bad_user"),
        (("int64", [7, 8]), "bad_user"),
    ],
    "topic": [
        (("bytes", ["日".encode()]), "日"),
        (("int64", [7]), "7"),
        (("bytes", []), None),
        (("bytes", [b"\xff"]), "bad_topic"),
        (("bytes", [b"a", b"b"]), "bad_topic"),
    ],
    "age": [
        (("float", [2.5]), 2.5),
        (("int64", [3]), 3.0),
        (("float", [NAN]), None),
        (None, None),
        (("float", [INF]), "bad_age"),
        (("bytes", [b"old"]), "bad_age"),
    ],
    "tags": [
        (("int64", [1, 2, 3]), [1, 2, 3]),
        (("bytes", [b"7"]), [7]),
        (("int64", []), []),
        (None, []),
        (("float", [1.5]), "bad_tags"),
        (("bytes", [b"\xff"]), "bad_tags"),
    ],
    "click": [
        (("int64", [1]), 1),
        (("float", [0.0]), 0),
        (None, None),
        (("int64", [2]), "bad_click"),
        (("float", [NAN]), "bad_click"),
    ],
    "seconds": [
        (("float", [61.5]), 61.5),
        (("float", [NAN]), None),
        (("float", [-INF]), "bad_seconds"),
        (("int64", [-1]), "bad_seconds"),
    ],
}
_ROWS = 4  # Rows of a file, to which the first one is added again.
Typed = Sequence[tuple[pa.DataType, Cells]]
# In Parquet and Delta a column has a type, and so have all its cells.
_STRING = pa.string()
_TYPED: dict[str, Typed] = {
    "ts": [
        (pa.int64(), [(MS, US), (0, 0), (-(2**63), "bad_time"), (2**63 - 1, "bad_time"), (None, "bad_time")]),
        (pa.uint64(), [(MS, US), (2**64 - 1, "bad_time")]),
        (pa.float64(), [(float(MS), US), (MS + 0.5, US + 500), (NAN, "bad_time"), (-INF, "bad_time")]),
        (pa.timestamp("ms"), [(MS, US), (-1, "bad_time"), (2**62, "bad_time"), (None, "bad_time")]),
        (pa.timestamp("us", "UTC"), [(US, US), (US + DAY_MS * 1000, US + DAY_MS * 1000), (-1, "bad_time")]),
        (pa.timestamp("ns", "Asia/Tokyo"), [(US * 1000 + 999, US), (-(2**63) + 1, "bad_time")]),
        (pa.timestamp("s"), [(MS // 1000, US - 123_000), (2**40, "bad_time"), (-1, "bad_time")]),
        (pa.decimal128(20, 3), [(Decimal(f"{MS}.500"), US + 500), (Decimal("-1.000"), "bad_time")]),
        (pa.null(), [(None, "bad_time")]),
        (_STRING, _STRINGS["ts"]),
    ],
    "uid": [
        (pa.int64(), [(7, 7), (ID, ID), (-(2**63), -(2**63)), (None, None)]),
        (pa.int8(), [(-7, -7)]),
        (pa.uint64(), [(7, 7), (2**63, "bad_user"), (None, None)]),
        (
            pa.float64(),
            [
                (7.0, 7),
                (2.0**53, 2**53),
                (2.0**53 + 2, "bad_user"),
                (7.5, "bad_user"),
                (INF, "bad_user"),
                (NAN, None),
            ],
        ),
        (pa.float32(), [(7.0, 7), (1e20, "bad_user")]),
        (pa.decimal128(20, 2), [(Decimal("7.00"), 7), (Decimal("7.50"), "bad_user")]),
        (pa.bool_(), [(True, 1), (None, None)]),
        (pa.null(), [(None, None)]),
        (pa.dictionary(pa.int32(), _STRING), [("7", 7), ("7.5", "bad_user"), ("\udcff", "bad_user")]),
        (_STRING, _STRINGS["uid"]),
    ],
    "topic": [
        (pa.int64(), [(7, "7"), (None, None)]),
        (pa.bool_(), [(True, "true"), (None, None)]),
        (pa.null(), [(None, None)]),
        (pa.large_string(), _STRINGS["topic"]),
        (pa.string_view(), _STRINGS["topic"]),
        (pa.dictionary(pa.int32(), _STRING), _STRINGS["topic"]),
        (_STRING, _STRINGS["topic"]),
    ],
    "age": [
        (pa.float32(), [(2.5, 2.5), (NAN, None), (-INF, "bad_age"), (None, None)]),
        (pa.float64(), [(2.5, 2.5), (1e39, "bad_age"), (-1e300, "bad_age"), (NAN, None)]),
        (pa.float16(), [(2.5, 2.5), (NAN, None)]),
        (pa.int64(), [(3, 3.0), (None, None)]),
        (pa.decimal256(50, 1), [(Decimal("2.5"), 2.5), (Decimal(10) ** 45, "bad_age")]),
        (_STRING, _STRINGS["age"]),
    ],
    "tags": [
        (pa.list_(pa.int64()), [([1, 2, 3], [1, 2, 3]), ([None, ID], [ID]), ([], []), (None, None)]),
        (pa.large_list(pa.uint64()), [([1], [1]), ([1, 2**63], "bad_tags")]),
        (pa.list_(pa.int16(), 2), [([1, 2], [1, 2]), ([None, 3], [3])]),
        (pa.list_(pa.float64()), [([7.0, NAN], [7]), ([7.5], "bad_tags"), ([INF], "bad_tags")]),
        (
            pa.list_(_STRING),
            [(["7", ""], [7]), (["7", "x"], "bad_tags"), (["\udcff"], "bad_tags"), (None, None)],
        ),
        (pa.null(), [(None, None)]),
    ],
    "click": [
        (pa.int8(), [(0, 0), (1, 1), (2, "bad_click"), (-128, "bad_click"), (None, None)]),
        (pa.int64(), [(1, 1), (257, "bad_click"), (2**63 - 1, "bad_click")]),
        (pa.float64(), [(1.0, 1), (0.5, "bad_click"), (INF, "bad_click"), (NAN, None)]),
        (pa.bool_(), [(True, 1), (False, 0), (None, None)]),
        (_STRING, _STRINGS["click"]),
    ],
    "seconds": [
        (
            pa.float64(),
            [(61.5, 61.5), (-0.5, "bad_seconds"), (1e300, "bad_seconds"), (NAN, None), (None, None)],
        ),
        (pa.float32(), [(61.5, 61.5), (INF, "bad_seconds")]),
        (pa.uint8(), [(61, 61.0)]),
        (pa.decimal128(10, 1), [(Decimal("61.5"), 61.5), (Decimal("-0.5"), "bad_seconds")]),
        (_STRING, _STRINGS["seconds"]),
    ],
}
_TYPED_ISO: Typed = [
    (_STRING, _ISO),
    (pa.timestamp("us", "UTC"), [(US, US), (-1, "bad_time"), (None, "bad_time")]),
]
# Types from which none of our columns can be read, each with a value, by the raw column that gets it.
_NEVER: dict[str, Sequence[tuple[pa.DataType, Any]]] = {
    "ts": [(pa.bool_(), True), (pa.list_(pa.int64()), [MS]), (pa.date32(), date(2026, 1, 1))],
    "uid": [(pa.list_(pa.int64()), [7]), (pa.struct({"a": pa.int64()}), {"a": 7}), (pa.timestamp("us"), 7)],
    "topic": [(pa.float64(), 1.5), (pa.date32(), date(2026, 1, 1)), (pa.list_(_STRING), ["a"])],
    "age": [(pa.time64("us"), 7), (pa.map_(_STRING, pa.int64()), [("a", 1)])],
    "tags": [(pa.int64(), 7), (_STRING, "[7]"), (pa.list_(pa.list_(pa.int64())), [[7]])],
    "click": [(pa.duration("us"), 1), (pa.binary(), b"1")],
    "seconds": [(pa.list_(pa.float64()), [1.0]), (pa.date64(), date(2026, 1, 1))],
}
# What a column that is not wanted may be.
_OTHER: Typed = [
    (_STRING, [("x", None), ("\udcff", None), (None, None)]),
    (pa.binary(), [(b"\xff", None), (None, None)]),
    (pa.struct({"a": pa.list_(_STRING)}), [({"a": ["x", None]}, None), (None, None)]),
    (pa.list_(pa.struct({"a": pa.float64()})), [([{"a": NAN}], None), ([], None)]),
    (pa.map_(_STRING, pa.int64()), [([("a", 1)], None), (None, None)]),
    (pa.list_(pa.int8(), 2), [([1, 2], None)]),  # Arrow cannot read nulls of this type from Parquet.
    (pa.list_(pa.decimal128(9, 2)), [([Decimal("1.50")], None)]),
    (pa.decimal256(60, 1), [(Decimal("7.5"), None)]),
    (pa.struct({"a": _STRING}), [({"a": "\udcff"}, None)]),
    (pa.time32("s"), [(7, None)]),
    (pa.duration("ns"), [(7, None)]),
    (pa.binary(2), [(b"ab", None)]),
    (pa.float16(), [(1.5, None)]),
    (pa.null(), [(None, None)]),
]
# The types that Delta has; its writer replaces or refuses other ones.
_DELTA = {
    *(pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), _STRING, pa.binary(), pa.date32()),
    *(pa.timestamp("us", "UTC"), pa.decimal128(20, 2), pa.decimal128(20, 3), pa.decimal128(10, 1)),
    *map(pa.list_, (pa.int64(), pa.float64(), _STRING)),
    *(pa.struct({"a": pa.int64()}), pa.struct({"a": _STRING}), pa.map_(_STRING, pa.int64())),
}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    path: Path
    rows: list[Row] | None
    """What must be read from it, in order; None: it must be refused."""


class Nursery:
    """Makes files of one kind below a folder. All are different, and the same seed gives the same files."""

    def __init__(self, folder: Path, kind: str, *, seed: int, iso8601: bool):
        self.folder, self.kind, self.iso8601 = folder, kind, iso8601
        self.random = random.Random(f"{kind} {seed}")
        self.made = 0
        self.last: Any = None

    def sound(self) -> Mutant:
        """Write an undamaged file of odd values; now and then the last one again, so that ids repeat.

        All rows of the first file must be kept, except for one that occurs twice.
        """
        self.made += 1
        path = self.folder / f"f{self.made:05d}.{self.kind}"
        if self.made == 1 or self.random.random() > 0.1:
            self.last = self._typed() if self.kind in ("parquet", "delta") else self._text()
        content, rows = self.last
        self._write(path, content)
        return Mutant(path=path, rows=rows)

    def broken(self) -> Path:
        """Write a file and damage some of its bytes, before or after compression."""
        path = self.sound().path
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        data, damage = self.random.choice(files), self._damage
        whole = data.read_bytes()
        unpack, pack = _PACKING[self.kind.partition(".")[2]]
        data.write_bytes(pack(damage(unpack(whole))) if self.random.random() < 0.5 else damage(whole))
        return path

    def _damage(self, data: bytes) -> bytes:
        """Return the data cut, changed, or with a part removed or repeated."""
        at, end = sorted(self.random.randrange(len(data) + 1) for _ in range(2))
        way = self.random.randrange(5)
        if way == 0:
            return data[:at]
        if way in (1, 2):
            new = self.random.choice([b"\xff", b'"', b"\n", b"\0", b"9" * 30, b",", b"[", b"\x7f"])
            return data[:at] + new + data[at + (way == 1) :]
        return data[:at] + data[end:] if way == 3 else data[:end] + data[at:]

    def _write(self, path: Path, content: Any) -> None:
        if self.kind == "parquet":
            pq.write_table(content, path, row_group_size=self.random.choice([2, 100]))
        elif self.kind == "delta":
            write_deltalake(path, content, partition_by=self.random.choice([None, ["part"]]))
        else:
            path.write_bytes(content)

    def _text(self) -> tuple[bytes, list[Row]]:
        fmt, _, packing = self.kind.partition(".")
        cells: dict[str, Cells] = {name: [*_JSON[name], *_STRINGS[name]] for name in OURS}
        if fmt != "jsonl":
            cells = _EXAMPLES if fmt == "tfrecord" else _STRINGS
        if self.iso8601:
            cells = {**cells, "ts": _ISO}
        raws, rows = [], []
        for _ in range(_ROWS):
            odd = self._odd()
            drawn = {name: self._cell(cells[name], name in odd) for name in OURS}
            raws.append({name: raw for name, (raw, _) in drawn.items()} | {"other": self.random.choice("xy")})
            rows.append({OURS[name]: value for name, (_, value) in drawn.items()})
        data = _WRITERS[fmt]([*raws, raws[0]])
        return _PACKING[packing][1](data), [*rows, rows[0]]

    def _typed(self) -> tuple[pa.Table, list[Row] | None]:
        columns: dict[str, pa.Array] = {}
        rows: list[Row] = [{} for _ in range(_ROWS)]
        odd = [self._odd() for _ in rows]
        never = self.random.choice(list(OURS)) if self.made > 1 and self.random.random() < 0.1 else None
        types = {**_TYPED, "ts": _TYPED_ISO} if self.iso8601 else _TYPED
        for name in OURS:
            dtype, cells = self._type(types[name])
            drawn = [self._cell(cells, name in names) for names in odd]
            if name == never:
                dtype, raw = self._type(_NEVER[name])
                drawn = [(raw, None)] * _ROWS
            columns[name] = _array([raw for raw, _ in drawn], dtype)
            for row, (_, value) in zip(rows, drawn, strict=True):
                row[OURS[name]] = value
        dtype, cells = self._type(_OTHER)
        columns["other"] = _array([self.random.choice(cells)[0] for _ in rows], dtype)
        if self.kind == "delta":
            columns["part"] = pa.array(["a"] * _ROWS)
        table = pa.table(columns)
        # One chunk, because the writer of Delta takes the chunks of a table in any order.
        return pa.concat_tables([table, table[:1]]).combine_chunks(), None if never else [*rows, rows[0]]

    def _odd(self) -> set[str]:
        """Return the columns in which a row may have a bad value; often none, because else few rows would be kept."""
        return (
            set(self.random.sample(list(OURS), self.random.choice([0, 0, 1, 2]))) if self.made > 1 else set()
        )

    def _cell(self, cells: Cells, odd: bool) -> tuple[Any, Any]:
        if self.made == 1:
            return cells[0]
        good = [cell for cell in cells if not str(cell[1]).startswith("bad_")]
        return self.random.choice(cells if odd or not good else good)

    def _type(self, types: Any) -> Any:
        fit = [each for each in types if self.kind != "delta" or each[0] in _DELTA]
        return fit[0] if self.made == 1 else self.random.choice(fit)


def _array(values: Sequence[Any], dtype: pa.DataType) -> pa.Array:
    """Return the array; lone surrogates in text become the bytes that they stand for, unchecked."""
    if "\\udcff" not in ascii(values):
        if pa.types.is_timestamp(dtype):
            return pa.array(values, pa.int64()).cast(dtype)
        return pa.array(values, dtype)
    if pa.types.is_struct(dtype):
        return pa.StructArray.from_arrays([_array([v["a"] for v in values], _STRING)], names=["a"])
    if pa.types.is_list(dtype):
        raw = [None if v is None else [t.encode(errors="surrogateescape") for t in v] for v in values]
        return pa.array(raw, pa.list_(pa.binary())).cast(dtype, safe=False)
    raw = [None if v is None else v.encode(errors="surrogateescape") for v in values]
    text = pa.array(raw, pa.binary()).view(_STRING)
    if pa.types.is_dictionary(dtype):
        return text.dictionary_encode()
    return text if dtype == _STRING else pa.array(raw, pa.binary()).cast(dtype, safe=False)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    def field(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if set(text) & set(',"') else text

    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(",".join(map(field, line)) + "\n" for line in lines).encode(errors="surrogateescape")


def _jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    def line(row: Mapping[str, Any]) -> bytes:
        # JSON itself can only have a lone surrogate that is escaped.
        escaped = "\ud800" in row.values()
        return json.dumps(row, ensure_ascii=escaped).encode(errors="surrogateescape")

    return b"".join(line(row) + b"\n" for row in rows)


def _examples(rows: Sequence[Mapping[str, Any]]) -> bytes:
    def example(row: Mapping[str, Any]) -> bytes:
        made = tf.train.Example()
        for name, value in row.items():
            feature = made.features.feature[name]
            if value is not None:
                kind, values = ("bytes", [value.encode()]) if name == "other" else value
                of_kind = getattr(feature, f"{kind}_list")
                of_kind.SetInParent()
                of_kind.value.extend(values)
        return bytes(made.SerializeToString(deterministic=True))

    # A record is its length, a checksum of the length, the data, and a checksum of the data.
    return b"".join(
        (length := struct.pack("<Q", len(record))) + _checksum(length) + record + _checksum(record)
        for record in map(example, rows)
    )


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)
        table.append(byte)
    return table


_CRC = _crc_table()  # Of CRC-32C.
_WRITERS: dict[str, Callable[[Sequence[Mapping[str, Any]]], bytes]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "tfrecord": _examples,
}
Bytes = Callable[[bytes], bytes]
_PACKING: dict[str, tuple[Bytes, Bytes]] = {
    "": (lambda data: data, lambda data: data),
    "gz": (gzip.decompress, lambda data: gzip.compress(data, mtime=0)),
    "zst": (
        lambda data: pa.input_stream(pa.py_buffer(data), compression="zstd").read(),
        lambda data: pa.compress(data, codec="zstd", asbytes=True),
    ),
}
