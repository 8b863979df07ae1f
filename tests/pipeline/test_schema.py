"""Mistakes in a schema are named, and tables have exactly the declared columns."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import (
    Downsampling,
    Feature,
    Growth,
    History,
    Schema,
    Task,
    history_columns,
    interaction_columns,
)

USER = Feature(name="user", dtype="int64", capacity=10)
CLICK = Task(name="click", label="click")
SCHEMA = Schema(
    features=(
        USER,
        Feature(name="topic", dtype="string", capacity=5),
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
        ({"dtype": "int64"}, "capacity is 0, an id needs between 1 and 2**31 - 1"),
        ({"dtype": "float32", "serve_as": "7"}, "serve_as is '7', expected a value of its dtype, float32"),
        (
            {"dtype": "float32", "serve_as": float("nan")},
            "serve_as is nan, expected a value of its dtype, float32",
        ),
        (
            {"dtype": "int64", "capacity": 2, "serve_as": True},
            "serve_as is True, expected a value of its dtype, int64",
        ),
        (
            {"dtype": "int64", "capacity": 2, "length": 2, "serve_as": 7},
            "serve_as is 7, expected None for a list; if no request has the list, name it in `without` of each "
            "student's model",
        ),
        ({"dtype": "int64", "capacity": -1}, "capacity is -1, an id needs between 1 and 2**31 - 1"),
        (
            {"dtype": "string", "capacity": 2**31},
            "capacity is 2147483648, an id needs between 1 and 2**31 - 1",
        ),
        (
            {"dtype": "string", "capacity": 1, "log1p": True},
            "log1p is for float32 features, this one is string",
        ),
        ({"dtype": "float32", "scope": "item"}, "scope is 'item', expected 'user' or 'candidate'"),
        ({"dtype": "float32", "length": 2}, "length is 2, expected at least 0, and 0 for a float32"),
        (
            {"dtype": "int64", "capacity": 1, "length": -1},
            "length is -1, expected at least 0, and 0 for a float32",
        ),
        (
            {"dtype": "float32", "buckets": (1.0, 1.0)},
            "buckets is (1.0, 1.0), expected ascending numbers, and none for an id",
        ),
        (
            {"dtype": "float32", "buckets": (1.0, float("inf"))},
            "buckets is (1.0, inf), expected ascending numbers, and none for an id",
        ),
        (
            {"dtype": "int64", "capacity": 1, "buckets": (1.0,)},
            "buckets is (1.0,), expected ascending numbers, and none for an id",
        ),
        (
            {"dtype": "int64", "capacity": 9, "length": 2, "grows": Growth()},
            "grows needs a single id with a capacity of at least 2, the default embedding and another; "
            "this one is int64 of length 2 with a capacity of 9",
        ),
        (
            {"dtype": "string", "capacity": 1, "grows": Growth()},
            "grows needs a single id with a capacity of at least 2, the default embedding and another; "
            "this one is string of length 0 with a capacity of 1",
        ),
        (
            {"dtype": "float32", "grows": Growth()},
            "grows needs a single id with a capacity of at least 2, the default embedding and another; "
            "this one is float32 of length 0 with a capacity of 0",
        ),
    ],
)
def test_an_impossible_feature_is_refused(fields: dict[str, Any], text: str) -> None:
    with _says(f"feature 'x': {text}"):
        Feature(name="x", **fields)


def test_impossible_growth_is_refused() -> None:
    with _says("growth: min_seen is 0 and unseen_days 30, expected at least 1"):
        Growth(min_seen=0)
    with _says("growth: min_seen is 2 and unseen_days 0, expected at least 1"):
        Growth(unseen_days=0)


@pytest.mark.parametrize("rows", [1, 2**31 - 1])
def test_the_capacity_of_an_id_may_be_as_small_or_large_as_the_message_says(rows: int) -> None:
    assert Feature(name="x", dtype="int64", capacity=rows).capacity == rows


def test_a_task_of_unknown_kind_is_refused() -> None:
    with _says("task 'x': kind is 'softmax', expected one of binary, log1p, ziln, or a TaskKind"):
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
def test_an_impossible_schema_is_refused(fields: dict[str, Any], text: str) -> None:
    with _says(f"schema: {text}"):
        Schema(**{"features": (USER,), "tasks": (CLICK,), "key": ("user",), **fields})


@pytest.mark.parametrize(
    "name", ["day", "example_id", "event_time_us", "content", "dropped", "sampling_rate"]
)
def test_the_columns_that_the_pipeline_itself_adds_are_reserved(name: str) -> None:
    with _says(f"schema: column {name!r} is reserved or named twice; rename it"):
        Schema(features=(USER,), tasks=(Task(name="t", label=name),), key=("user",))


def test_interactions_hold_each_feature_and_each_label_once() -> None:
    assert interaction_columns(SCHEMA) == pa.schema(
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


def test_ids_and_numbers_share_the_features_between_them_in_order() -> None:
    assert [f.name for f in SCHEMA.ids] == ["user", "topic"]
    assert [f.name for f in SCHEMA.numbers] == ["seconds"]


def test_models_see_the_default_instead_of_a_null_and_the_declared_dtype() -> None:
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


def test_an_unknown_task_is_refused_and_the_known_ones_are_named() -> None:
    with _says("unknown task 'share'; this schema has click, watch, like, click_again"):
        SCHEMA.select_tasks(["click", "share"])


LISTS = Schema(
    features=(
        USER,
        Feature(name="item", dtype="int64", capacity=10),
        Feature(name="tags", dtype="string", capacity=5, length=2),
    ),
    tasks=(CLICK,),
    key=("user",),
    user="user",
    histories=(History(of="item", length=3, where="click"),),
)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"length": 0}, "length is 0 and days 7, expected at least 1"),
        ({"days": -1}, "length is 20 and days -1, expected at least 1"),
    ],
)
def test_an_impossible_history_is_refused(fields: dict[str, Any], text: str) -> None:
    with _says(f"history 'seen': {text}"):
        History(name="seen", of="item", **fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"user": None}, "history 'history' needs a user, and the schema names no `user`"),
        ({"user": "tags"}, "schema: user is 'tags', expected an id feature; these are user, item"),
        ({"key": ("tags",)}, "schema: key column 'tags' is a list; expected columns of single values"),
        (
            {"histories": (History(of="tags"),)},
            "history 'history': of is 'tags', expected an id feature other than the user's; these are item",
        ),
        (
            {"histories": (History(of="user"),), "features": (USER, LISTS.features[2])},
            "history 'history': of is 'user', expected an id feature other than the user's; these are none",
        ),
        (
            {"histories": (History(of="item", where="like"),)},
            "history 'history': where is 'like', expected a label; these are click",
        ),
        (
            {"histories": (History(name="tags", of="item"),)},
            "schema: column 'tags' is reserved or named twice; rename it",
        ),
    ],
)
def test_a_schema_whose_lists_do_not_fit_is_refused(fields: dict[str, Any], text: str) -> None:
    with _says(text):
        replace(LISTS, **fields)


def test_a_list_is_a_column_of_lists_and_a_history_is_in_a_table_of_its_own() -> None:
    assert interaction_columns(LISTS).field("tags").type == pa.list_(pa.string())
    assert "history" not in interaction_columns(LISTS).names
    assert history_columns(LISTS) == pa.schema([("user", pa.int64()), ("history", pa.list_(pa.int64()))])


def test_a_history_is_an_input_as_a_list_feature_of_the_user() -> None:
    assert LISTS.inputs() == (
        *LISTS.features,
        Feature(name="history", dtype="int64", capacity=10, length=3, scope="user"),
    )
    assert [f.name for f in LISTS.inputs(["history", "tags"])] == ["user", "item"]


@pytest.mark.parametrize(
    ("without", "text"),
    [
        (
            ["tag"],
            "model: without names 'tag', expected inputs of the schema: user, item, tags, history; or tasks: click",
        ),
        (["item"], "model: without names 'item', which 'history' is made of; leave that out too"),
        (["user", "item", "tags", "history"], "model: without names every input; leave it at least one"),
    ],
)
def test_inputs_that_a_model_needs_cannot_be_left_out(without: list[str], text: str) -> None:
    with _says(text):
        LISTS.inputs(without)


def test_a_model_may_leave_out_a_task_and_the_history_that_needs_its_label() -> None:
    more = replace(
        LISTS,
        tasks=(CLICK, Task(name="like", label="liked")),
        histories=(*LISTS.histories, History(name="liked_ones", of="item", where="liked")),
    )
    assert more.for_model() is more
    assert more.for_model(["like", "liked_ones"]) == LISTS
    assert more.for_model(["tags"]) is more
    assert [f.name for f in more.inputs(["like", "liked_ones"])] == ["user", "item", "tags", "history"]
    with _says("model: without names every task; leave it at least one"):
        more.for_model(["click", "like"])


def test_models_see_the_first_items_of_a_list_and_the_default_after_the_last() -> None:
    frame = pl.DataFrame(
        {"history": [[1, None, 2], None, [3, 4, 5, 6], []], "tags": [["a", "b", "c"], [], None, ["é"]]},
        schema={"history": pl.List(pl.Int64), "tags": pl.List(pl.String)},
    )
    arrays = LISTS.arrays(frame)
    assert {name: values.tolist() for name, values in arrays.items()} == {
        "tags": [["a", "b"], ["", ""], ["", ""], ["é", ""]],
        "history": [[1, 2, -1], [-1, -1, -1], [3, 4, 5], [-1, -1, -1]],
    }
    assert [values.dtype for values in arrays.values()] == [np.object_, np.int64]
    assert LISTS.arrays(frame, ["history"]).keys() == {"history"}
    assert {name: values.shape for name, values in LISTS.arrays(frame[:0]).items()} == {
        "tags": (0, 2),
        "history": (0, 3),
    }


def test_an_impossible_downsampling_is_refused() -> None:
    for rate in (0.0, 1.5, float("nan")):
        with _says(f"downsampling: rate is {rate}, expected a share above 0, at most 1, or None"):
            Downsampling(task="click", rate=rate)
    with _says("downsampling: task 'watch' is log1p, expected a binary one"):
        replace(SCHEMA, downsampling=Downsampling(task="watch"))
    with _says("unknown task 'buy'; this schema has click, watch, like, click_again"):
        replace(SCHEMA, downsampling=Downsampling(task="buy"))


def test_a_downsampled_table_has_the_rate_of_each_example() -> None:
    schema = replace(SCHEMA, downsampling=Downsampling(task="click"))
    assert interaction_columns(schema) == interaction_columns(SCHEMA).append(
        pa.field("sampling_rate", pa.float32())
    )
    assert schema.offered == [*SCHEMA.offered, "sampling_rate"]
    assert replace(SCHEMA, downsampling=Downsampling(task="click", rate=0.5)).offered == SCHEMA.offered


@pytest.mark.parametrize(
    ("weekday", "first"),
    [("", 1), ("thursday", 1), ("friday", 2), ("monday", 5), ("wednesday", 7)],  # 2026-01-01 is a Thursday.
)
def test_slices_of_whole_weeks_begin_on_the_weekday_that_is_given(weekday: str, first: int) -> None:
    schema = replace(SCHEMA, slice_days=7, slice_weekday=weekday)
    noon = [int(datetime(2026, 1, day, 12, tzinfo=UTC).timestamp() * 1_000_000) for day in (first, first + 6)]
    days = (
        pl.DataFrame({"t": [*noon, noon[-1] + 86_400_000_000]}).select(schema.slice_expr("t"))["t"].to_list()
    )
    assert days == [date(2026, 1, first), date(2026, 1, first), date(2026, 1, first + 7)]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"slice_days": 7, "slice_weekday": "Monday"},
            "slice_weekday is 'Monday', expected one of thursday, ",
        ),
        (
            {"slice_days": 10, "slice_weekday": "monday"},
            "slice_weekday is 'monday' and slice_days 10; expected ",
        ),
    ],
)
def test_a_weekday_that_no_slice_can_begin_on_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"^schema: {says}"):
        replace(SCHEMA, **fields)
