"""What a record is: mistakes in a schema are named, tables have exactly the declared columns."""

import re
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, Schema, Task

USER = Feature(name="user", dtype="int64", rows=10)
CLICK = Task(name="click", label="click")
SCHEMA = Schema(
    features=(
        USER,
        Feature(name="topic", dtype="string", rows=5),
        Feature(name="seconds", dtype="float32", log1p=True),
    ),
    tasks=(
        CLICK,
        Task(name="watch", label="watch_seconds", kind="log1p"),
        Task(name="like", label="like"),
        Task(name="click_again", label="click"),
    ),
    key=("user", "event_time_us"),
)


def _says(text: str) -> Any:
    return pytest.raises(UserError, match=f"^{re.escape(text)}$")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"dtype": "int32"}, "dtype is 'int32', expected one of ['float32', 'int64', 'string']"),
        ({"dtype": "int64"}, "rows is 0, an id needs between 1 and 2**31 - 1"),
        ({"dtype": "int64", "rows": -1}, "rows is -1, an id needs between 1 and 2**31 - 1"),
        ({"dtype": "string", "rows": 2**31}, "rows is 2147483648, an id needs between 1 and 2**31 - 1"),
        ({"dtype": "string", "rows": 1, "log1p": True}, "log1p is for float32 features, this one is string"),
        ({"dtype": "float32", "scope": "item"}, "scope is 'item', expected 'user' or 'candidate'"),
    ],
)
def test_a_feature_that_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    with _says(f"feature 'x': {text}"):
        Feature(name="x", **fields)


@pytest.mark.parametrize("rows", [1, 2**31 - 1])
def test_an_id_may_have_as_few_or_many_rows_as_the_text_says(rows: int) -> None:
    assert Feature(name="x", dtype="int64", rows=rows).rows == rows


def test_a_task_of_unknown_kind_is_refused() -> None:
    with _says("task 'x': kind is 'softmax', expected one of binary, log1p, ziln"):
        Task(name="x", label="x", kind="softmax")  # type: ignore[arg-type]


def test_a_served_score_is_named_for_what_it_is() -> None:
    value = Task(name="watch", label="watch_seconds", kind="ziln")
    assert [(t.outputs, t.score) for t in (*SCHEMA.tasks[:2], value)] == [
        (("click_logit",), "click"),
        (("watch_log1p",), "watch_log1p"),
        (("watch_logit", "watch_mu", "watch_sigma"), "watch"),
    ]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"features": (USER, USER)}, "column 'user' is reserved or named twice; rename it"),
        (
            {"features": (Feature(name="click", dtype="float32"),)},
            "column 'click' is reserved or named twice; rename it",
        ),
        ({"tasks": (Task(name="t", label="user"),)}, "column 'user' is reserved or named twice; rename it"),
        ({"key": ("item",)}, "key column 'item' is neither a feature, a label nor event_time_us"),
        ({"key": ("day",)}, "key column 'day' is neither a feature, a label nor event_time_us"),
        ({"user": "click"}, "user is 'click', expected an id feature; these are user"),
        ({"key": ()}, "features, tasks and key must each name at least one column"),
        ({"tasks": ()}, "features, tasks and key must each name at least one column"),
        (
            {"features": (), "key": ("event_time_us",)},
            "features, tasks and key must each name at least one column",
        ),
        ({"slice_days": 0}, "slice_days is 0, expected at least 1"),
        ({"tasks": (CLICK, CLICK)}, "two tasks have an output 'click'; rename one of them"),
        (
            {"tasks": (CLICK, Task(name="w", label="w", kind="log1p"), Task(name="w_log1p", label="click"))},
            "two tasks have an output 'w_log1p'; rename one of them",
        ),
        (
            {"time_zone": "Asia/Shangai"},
            "time_zone is 'Asia/Shangai', expected an IANA name, as in Asia/Shanghai",
        ),
    ],
)
def test_a_schema_that_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    with _says(f"schema: {text}"):
        Schema(**{"features": (USER,), "tasks": (CLICK,), "key": ("user",), **fields})


@pytest.mark.parametrize("name", ["day", "example_id", "event_time_us", "content", "dropped"])
def test_the_columns_that_the_pipeline_itself_adds_are_reserved(name: str) -> None:
    with _says(f"schema: column {name!r} is reserved or named twice; rename it"):
        Schema(features=(USER,), tasks=(Task(name="t", label=name),), key=("user",))


def test_interactions_hold_each_feature_and_each_label_once() -> None:
    assert SCHEMA.interactions == pa.schema(
        [
            ("example_id", pa.int64()),
            ("event_time_us", pa.int64()),
            ("user", pa.int64()),
            ("topic", pa.string()),
            ("seconds", pa.float32()),
            ("click", pa.int8()),
            ("watch_seconds", pa.float32()),
            ("like", pa.int8()),
        ]
    )


def test_soft_labels_hold_an_output_per_task_and_where_it_came_from() -> None:
    assert SCHEMA.soft_labels == pa.schema(
        [
            ("example_id", pa.int64()),
            ("click_logit", pa.float32()),
            ("watch_log1p", pa.float32()),
            ("like_logit", pa.float32()),
            ("click_again_logit", pa.float32()),
            ("snapshot_day", pa.date32()),
            ("teacher_step", pa.int64()),
            ("trained_step", pa.int64()),
        ]
    )


def test_ids_and_numbers_share_the_features_between_them_in_order() -> None:
    assert [f.name for f in SCHEMA.ids] == ["user", "topic"]
    assert [f.name for f in SCHEMA.numbers] == ["seconds"]


def test_models_see_the_default_in_the_place_of_a_null_and_the_dtype_declared() -> None:
    frame = pl.DataFrame(
        {"seconds": [None, 1.5], "user": [7, None], "topic": [None, "é"], "more": [1, 2]},
        schema_overrides={"seconds": pl.Float32},
    )
    arrays = SCHEMA.arrays(frame)
    assert {name: values.tolist() for name, values in arrays.items()} == {
        "user": [7, -1],
        "topic": ["", "é"],
        "seconds": [0.0, 1.5],
    }
    assert [values.dtype for values in arrays.values()] == [np.int64, np.object_, np.float32]


def test_tasks_are_selected_in_the_order_of_the_schema() -> None:
    names = (name for name in ("like", "click"))
    assert [task.name for task in SCHEMA.select_tasks(names)] == ["click", "like"]
    assert SCHEMA.select_tasks([]) == ()


def test_a_task_that_is_none_is_named_with_those_there_are() -> None:
    with _says("unknown task 'share'; this schema has click, watch, like, click_again"):
        SCHEMA.select_tasks(["click", "share"])
