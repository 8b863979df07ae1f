"""The portability gate: both Beam jobs in separate processes, on Dask and over the protocol of Flink and Spark."""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tests import clusters
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.label import Snapshot, label
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.kuairand import KuaiRand
from tutelage.pipeline.sources.synthetic import Synthetic

pytestmark = pytest.mark.end_to_end

# A day in Shanghai spans two days in UTC, into which the units are cut. There are few users and videos, so that pairs
# repeat.
SCHEMA = Schema(
    features=(
        Feature(name="user_id", dtype="int64", capacity=10),
        Feature(name="video_id", dtype="int64", capacity=10),
        Feature(name="country", dtype="string", capacity=10),
        Feature(name="video_seconds", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="watch_seconds", kind="log1p")),
    key=("user_id", "video_id"),
    time_zone="Asia/Shanghai",
)
DAYS = [date(2026, 1, day) for day in (1, 2, 3)]
SOURCE = Synthetic(
    seed=1,
    first_day=DAYS[0],
    rows_per_day=1000,
    users=40,
    videos=40,
    new_users_per_day=1,
    new_videos_per_day=1,
)


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Return the Beam flags of a job service and a pool of workers, both processes of their own."""
    with clusters.job_service(tmp_path_factory.mktemp("beam")) as (of_the_service, _):
        yield of_the_service


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Return the Beam flags of a Dask cluster of two workers, processes of their own."""
    with clusters.dask(tmp_path_factory.mktemp("dask")) as (of_the_cluster, _):
        yield of_the_cluster


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a model: click is the length of `country`, watch is half of `video_seconds`."""
    import tensorflow as tf

    inputs = {
        f.name: tf.TensorSpec(
            [None], {"int64": tf.int64, "string": tf.string, "float32": tf.float32}[f.dtype]
        )
        for f in SCHEMA.features
    }

    def raw(**features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "click_logit": tf.cast(tf.strings.length(features["country"]), tf.float32),
            "watch_log1p": features["video_seconds"] / 2,
        }

    path = str(tmp_path_factory.mktemp("teacher"))
    module = tf.Module()
    signature = tf.function(raw).get_concrete_function(**inputs)
    tf.saved_model.save(module, path, signatures={"serving_default": signature})
    return path


def _lake(root: Path, schema: Schema = SCHEMA) -> Lake:
    lake = Lake(root, schema)
    lake.create()
    return lake


def _rows(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect().sort("day", "example_id")


@pytest.mark.parametrize("engine", ["flags", "dask"])
def test_both_jobs_give_the_same_rows_as_with_the_default_runner(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest, teacher: str
) -> None:
    flags = request.getfixturevalue(engine)
    days = {day: Snapshot(path=teacher, day=DAYS[0], step=9) for day in DAYS[1:]}
    lakes, made, labelled = [], [], []
    for name, beam_flags, rows in (("default", [], 10_000), ("portable", flags, 250)):
        lake = _lake(tmp_path / name)
        how = {"rows_per_shard": rows, "beam_flags": beam_flags}
        made.append(materialize(SOURCE, SCHEMA, lake, raw_dir="", workdir="", days=DAYS, **how))  # type: ignore[arg-type]
        most = max(len(lake.interactions.files(day=day)) for day in DAYS)
        assert (most > 1) == (name == "portable")
        labelled.append(label(SCHEMA, lake, teacher="big", days=days, beam_flags=beam_flags))
        lakes.append(lake)

    here, there = made
    assert there.rows_in == 3 * SOURCE.rows_per_day
    assert (there.days, there.elsewhere) == (here.days, here.elsewhere)
    assert list(there.elsewhere) == ["outside_days"]  # After 16:00 UTC of the last day.
    for counts in there.days.values():
        assert counts.rows_in == counts.kept + sum(counts.dropped.values())
        assert list(counts.dropped) == ["conflicting_duplicate"]
    rows = _rows(lakes[1].interactions.scan())
    assert rows.equals(_rows(lakes[0].interactions.scan()))
    assert rows.height == sum(counts.kept for counts in there.days.values())

    assert labelled[0] == labelled[1] == {day: there.days[day].kept for day in DAYS[1:]}
    labels = _rows(lakes[1].soft_labels.scan())
    assert labels.equals(_rows(lakes[0].soft_labels.scan()))
    joined = labels.join(rows, on=["day", "example_id"], how="left")
    assert (joined["click_logit"] == joined["country"].fill_null("").str.len_bytes()).all()
    assert (joined["watch_log1p"] == joined["video_seconds"] / 2).all()


def test_a_day_without_rows_is_reported_in_one_line(tmp_path: Path, flags: list[str]) -> None:
    text = "no rows for 2025-12-31 in the source; of the other days, 1 were committed. Ask for days that the data has"
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        materialize(
            SOURCE,
            SCHEMA,
            _lake(tmp_path / "lake"),
            raw_dir="",
            workdir="",
            days=[date(2025, 12, 31), DAYS[0]],
            beam_flags=flags,
        )


def test_a_mistake_that_a_worker_finds_is_reported_in_one_line(tmp_path: Path, flags: list[str]) -> None:
    numbers = [f"{of}_user_num" for of in ("follow", "fans", "friend")] + ["register_days"]
    labels = [f"is_{label}" for label in ("click", "like", "follow", "comment", "forward", "hate")]
    log = ["user_id", "video_id", "time_ms", "tab", "duration_ms", "play_time_ms", "long_view", *labels]
    users = ["user_id", "user_active_degree", "is_live_streamer", "is_video_author", *numbers]
    users += [f"{name}_range" for name in numbers] + [f"onehot_feat{i}" for i in range(18)]
    videos = ["video_id", "video_duration", "upload_dt", "upload_type", "video_type", "tag"]
    videos += ["author_id", "music_id", "music_type"]
    data = tmp_path / "raw/data"
    data.mkdir(parents=True)
    path = data / "log_standard_1_pure.csv"
    path.write_text(",".join(log) + "\n7,3")
    (data / "user_features_pure.csv").write_text(",".join(users) + "\n")
    (data / "video_features_basic_pure.csv").write_text(",".join(videos) + "\n")
    schema = Schema(features=SCHEMA.features[:2], tasks=SCHEMA.tasks, key=SCHEMA.key)
    lake = _lake(tmp_path / "lake", schema)
    text = (
        f"{path} is truncated: its last line has 2 fields and no line end, expected 13 fields; fetch it again"
    )
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        materialize(
            KuaiRand(),
            schema,
            lake,
            raw_dir=str(tmp_path / "raw"),
            workdir="",
            days=DAYS,
            beam_flags=flags,
        )
    assert lake.interactions.partitions().height == 0
    assert list((tmp_path / "lake/.staging").iterdir()) == []
