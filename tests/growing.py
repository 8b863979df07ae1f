"""The three days of `tests.tiny` with growing id maps of users and topics, too small for all users."""

import dataclasses
from pathlib import Path

from tests.tiny import SCHEMA, make_run
from tutelage.pipeline.schema import Growth, Schema
from tutelage.trainers.run import Run

GROWS = {"user": (16, Growth(min_seen=2, unseen_days=1)), "topic": (10, Growth(min_seen=1, unseen_days=9))}
GROWING: Schema = dataclasses.replace(
    SCHEMA,
    features=tuple(
        dataclasses.replace(f, capacity=GROWS[f.name][0], grows=GROWS[f.name][1]) if f.name in GROWS else f
        for f in SCHEMA.features
    ),
)


def growing_run(root: Path) -> Run:
    return dataclasses.replace(make_run(root), schema=GROWING)
