"""What a candidate and the served version are judged on: rows that neither was trained on, and their scores of them."""

from collections.abc import Iterable
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.export.comparison import JudgedRows
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.holdout import held_out, known_user
from tutelage.pipeline.schema import Schema
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import Run

_SLICE = 100
"""Rows of the smallest slice."""
_CHUNK = 8_192
"""Rows that are scored at once."""


def read_frame(run: Run, state: State, day: date) -> pl.DataFrame:
    """Return the raw rows of `day` that judge a version of `state`, in the order of example_id.

    They are the holdout of the state's own day, or all rows of a later one. The holdouts of earlier days are not added
    to it: after the world has changed, they would hold a version that has followed it against one that has not.
    """
    lake = run.lake.snapshot()
    rows = lake.interactions.scan(day=day)
    if day == state.day:
        rows = rows.filter(held_out(run.schema, day, state.holdout))
    return lake.with_histories(rows, day).sort("example_id").collect()


def judged_rows(
    frame: pl.DataFrame, day: date, schema: Schema, model: Schema, slice_by: Iterable[str]
) -> JudgedRows:
    """Return the labels, weights, users and slices of raw rows. `model` is the schema as the model sees it."""
    weight = schema.example_weight(frame)
    labels = {task: frame[task.label].cast(pl.Float64).fill_null(np.nan).to_numpy() for task in model.tasks}
    known = frame.with_columns(known_user(schema).alias("known"))["known"].to_numpy()
    named = frame[schema.user].rank("dense").fill_null(0).to_numpy() if schema.user else np.zeros(len(frame))
    # A row without a known user is a user of its own.
    _, users = np.unique(np.where(known, named, -1.0 - np.arange(len(frame))), return_inverse=True)
    return JudgedRows(
        day=day,
        targets={
            task.name: np.where(np.isnan(label), np.nan, kind_of(task).target(label))
            for task, label in labels.items()
        },
        weight=np.ones(len(frame)) if weight is None else weight.astype(np.float64),
        users=users,
        slices={
            f"{name}={value}": frame[name].eq_missing(value).to_numpy()
            for name in slice_by
            for value, count in frame[name].value_counts().sort(name).iter_rows()
            if count >= _SLICE
        },
    )


def served_scores(signature: Any, frame: pl.DataFrame, schema: Schema) -> dict[str, np.ndarray]:
    """Return float64 [rows] by output of a SavedModel's signature `serving_default`.

    Raises UserError where it takes a feature that the rows do not have.
    """
    takes = signature.structured_input_signature[1]
    columns = schema.arrays(frame, takes)
    if missing := sorted(takes.keys() - columns.keys()):
        raise UserError(f"it takes {', '.join(missing)}, which the schema no longer has")
    parts = [
        signature(**{name: tf.constant(values[start : start + _CHUNK]) for name, values in columns.items()})
        for start in range(0, len(frame), _CHUNK)
    ]
    return {
        name: np.concatenate([np.zeros(0), *(part[name].numpy().astype(np.float64) for part in parts)])
        for name in signature.structured_outputs
    }
