"""The KuaiRand reader on a small archive of the same layout, and on the real one if it is available."""

import os
import pickle
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tutelage.pipeline.days import slice_expr
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.kuairand import KuaiRand

_LOG = "log_standard_4_22_to_5_08_pure.csv"
_USERS, _VIDEOS = "user_features_pure.csv", "video_features_basic_pure.csv"
_EXPOSURE = {
    "user_id": "7",
    "video_id": "3",
    "date": "20220425",
    "hourmin": "1100",
    "time_ms": "1650859263123",  # 2022-04-25 12:01:03.123 in Beijing
    "is_click": "1",
    "is_like": "0",
    "is_follow": "0",
    "is_comment": "1",
    "is_forward": "0",
    "is_hate": "0",
    "long_view": "1",
    "play_time_ms": "61802",
    "duration_ms": "49866",
    "profile_stay_time": "0",
    "comment_stay_time": "0",
    "is_profile_enter": "0",
    "is_rand": "0",
    "tab": "1",
}
_USER = {
    "user_id": "7",
    "user_active_degree": "full_active",
    "is_lowactive_period": "0",
    "is_live_streamer": "-124",
    "is_video_author": "1",
    "follow_user_num": "514",
    "follow_user_num_range": "500+",
    "fans_user_num": "150",
    "fans_user_num_range": '"[100,1k)"',
    "friend_user_num": "34",
    "friend_user_num_range": '"[30,60)"',
    "register_days": "799",
    "register_days_range": "730+",
    **{f"onehot_feat{i}": "" if i == 17 else f"{i}.0" if i > 11 else str(i) for i in range(18)},
}
_VIDEO = {
    "video_id": "3",
    "author_id": "7349781",
    "video_type": "NORMAL",
    "upload_dt": "2022-04-10",
    "upload_type": "LongImport",
    "visible_status": "0.0",
    "video_duration": "87433.0",
    "server_width": "720.0",
    "server_height": "1280.0",
    "music_id": "9155697141",
    "music_type": "9.0",
    "tag": '"39,43"',
}
_AFTER_THE_EXPOSURE = {"profile_stay_time", "comment_stay_time", "is_profile_enter"}


def _csv(*rows: dict[str, str]) -> str:
    return "".join(",".join(line) + "\n" for line in [list(rows[0]), *(list(row.values()) for row in rows)])


def _archive(raw: Path, **files: str | bytes) -> str:
    """Write an archive with one row per file, except for the contents in `files` of log, users and videos."""
    data = raw / "data"
    data.mkdir(parents=True, exist_ok=True)
    defaults = {"log": _csv(_EXPOSURE), "users": _csv(_USER), "videos": _csv(_VIDEO)}
    for text, name in zip((defaults | files).values(), (_LOG, _USERS, _VIDEOS), strict=True):
        (data / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(raw)


def _read(raw: str, **fields: int) -> pl.DataFrame:
    source = KuaiRand(**fields)
    units = source.units(raw, workdir="", days=[date(2022, 4, 25)])
    return pl.concat([frame for unit in units for frame in source.read(unit)])


def test_one_exposure(tmp_path: Path) -> None:
    frame = _read(_archive(tmp_path))
    expected: dict[str, Any] = {
        "event_time_us": 1_650_859_263_123_000,
        "user_id": 7,
        "video_id": 3,
        "tab": 1,
        "hour": 12,
        "is_live_streamer": -124,
        "is_video_author": 1,
        **{f"onehot_feat{i}": i for i in range(17)},
        "onehot_feat17": None,
        "author_id": 7_349_781,
        "music_id": 9_155_697_141,
        "music_type": 9,
        "user_active_degree": "full_active",
        "follow_user_num_range": "500+",
        "fans_user_num_range": "[100,1k)",
        "friend_user_num_range": "[30,60)",
        "register_days_range": "730+",
        "tag": "39,43",
        "tags": ["39", "43"],
        "upload_type": "LongImport",
        "video_type": "NORMAL",
        "follow_user_num": 514.0,
        "fans_user_num": 150.0,
        "friend_user_num": 34.0,
        "register_days": 799.0,
        "video_seconds": pytest.approx(87.433),
        "video_age_days": 15.0,
        "watch_seconds": pytest.approx(61.802),
        "click": 1,
        "long_view": 1,
        "like": 0,
        "follow": 0,
        "comment": 1,
        "forward": 0,
        "hate": 0,
        "dropped": None,
    }
    assert frame.drop("content").to_dicts() == [expected]


def test_frames_have_the_columns_that_are_offered(tmp_path: Path) -> None:
    columns = KuaiRand().columns()
    expected = {"event_time_us": pl.Int64, **columns, "content": pl.UInt64, "dropped": pl.String}
    for log in (_csv(_EXPOSURE), _csv(_EXPOSURE).splitlines()[0]):
        assert dict(_read(_archive(tmp_path, log=log)).schema) == expected
    assert not _AFTER_THE_EXPOSURE & set(columns)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("time_ms", "", "bad_time"),
        ("time_ms", "1650859263123.5", "bad_time"),
        ("time_ms", "-1", "bad_time"),
        ("time_ms", "4102444800000", "bad_time"),
        ("time_ms", "99999999999999999999", "bad_time"),
        ("user_id", "", "bad_key"),
        ("user_id", "-7", "bad_key"),
        ("video_id", "three", "bad_key"),
        ("video_id", "9223372036854775808", "bad_key"),
        ("is_click", "", "bad_label"),
        ("is_hate", "2", "bad_label"),
        ("long_view", "yes", "bad_label"),
        ("is_like", "-1", "bad_label"),
        ("play_time_ms", "", "bad_label"),
        ("play_time_ms", "-1", "bad_label"),
        ("play_time_ms", "nan", "bad_label"),
        ("play_time_ms", "inf", "bad_label"),
        ("play_time_ms", "1e300", "bad_label"),
        ("tab", "1,1", "bad_row"),
        ("tab", "?", None),
        ("duration_ms", "?", None),
        ("time_ms", "0", None),
        ("play_time_ms", "0", None),
    ],
)
def test_a_bad_value_drops_only_its_row(tmp_path: Path, column: str, value: str, reason: str | None) -> None:
    log = _csv(_EXPOSURE, _EXPOSURE | {column: value}, _EXPOSURE)
    frame = _read(_archive(tmp_path, log=log))
    assert frame["dropped"].to_list() == [None, reason, None]
    assert frame["event_time_us"].is_null().to_list() == [False, reason == "bad_time", False]


def test_a_row_of_too_few_fields_is_dropped(tmp_path: Path) -> None:
    frame = _read(_archive(tmp_path, log=_csv(_EXPOSURE) + "7,3\n\n" + _csv(_EXPOSURE).splitlines()[1]))
    assert frame["dropped"].to_list() == [None, "bad_row", None]


def test_content_covers_the_whole_raw_row(tmp_path: Path) -> None:
    log = _csv(_EXPOSURE, _EXPOSURE, _EXPOSURE | {"hourmin": "1200"}, _EXPOSURE | {"is_rand": ""})
    content = _read(_archive(tmp_path, log=log), block_bytes=50)["content"].to_list()
    assert content[0] == content[1]
    assert len(set(content)) == 3


def test_hours_and_days_are_those_of_beijing(tmp_path: Path) -> None:
    midnight = 1_650_816_000_000  # 2022-04-25 00:00 in Beijing
    log = _csv(*(_EXPOSURE | {"time_ms": str(midnight + ms)} for ms in (-1, 0)))
    videos = _csv(_VIDEO | {"upload_dt": "2022-04-25"})
    frame = _read(_archive(tmp_path, log=log, videos=videos))
    assert frame["hour"].to_list() == [23, 0]
    assert frame["video_age_days"].to_list() == [0, 0]
    frame = _read(_archive(tmp_path, log=log, videos=_csv(_VIDEO | {"upload_dt": "2022-04-23"})))
    assert frame["video_age_days"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("video", "log", "seconds"),
    [
        ("87433.0", "5000", pytest.approx(87.433)),
        ("", "5000", 5.0),
        ("0.0", "5000", 5.0),
        ("", "0", None),
        ("nan", "?", None),
    ],
)
def test_video_seconds_fall_back_on_the_log(tmp_path: Path, video: str, log: str, seconds: object) -> None:
    files = {
        "log": _csv(_EXPOSURE | {"duration_ms": log}),
        "videos": _csv(_VIDEO | {"video_duration": video}),
    }
    assert _read(_archive(tmp_path, **files))["video_seconds"].to_list() == [seconds]


def test_unknown_users_and_videos_are_kept_with_nulls(tmp_path: Path) -> None:
    log = _csv(_EXPOSURE | {"user_id": "8"}, _EXPOSURE | {"video_id": "4"}, _EXPOSURE)
    rows = _read(_archive(tmp_path, log=log)).to_dicts()
    assert [(row["dropped"], row["register_days"], row["author_id"]) for row in rows] == [
        (None, None, 7_349_781),
        (None, 799.0, None),
        (None, 799.0, 7_349_781),
    ]
    assert rows[1]["video_seconds"] == pytest.approx(49.866)
    assert rows[1]["video_age_days"] is None


def test_repeats_in_the_side_tables_do_not_multiply_rows(tmp_path: Path) -> None:
    users = _csv(_USER | {"user_id": "?"}, _USER, _USER | {"register_days": "1"})
    videos = _csv(_VIDEO, _VIDEO | {"author_id": "1"})
    frame = _read(_archive(tmp_path, users=users, videos=videos))
    assert frame.select("register_days", "author_id").rows() == [(799.0, 7_349_781)]


def test_a_changed_side_table_is_read_again(tmp_path: Path) -> None:
    _read(_archive(tmp_path))
    frame = _read(_archive(tmp_path, users=_csv(_USER | {"register_days": "12345"})))
    assert frame["register_days"].to_list() == [12_345.0]


def test_every_log_is_read_by_name_and_the_leaking_statistics_are_not(tmp_path: Path) -> None:
    raw = _archive(tmp_path)
    data = tmp_path / "data"
    (data / "log_standard_4_08_to_4_21_pure.csv").write_text(_csv(_EXPOSURE | {"tab": "0"}))
    (data / "log_random_4_22_to_5_08_pure.csv").write_bytes(b"\0")
    (data / "video_features_statistic_pure.csv").write_bytes(b"\0")
    assert _read(raw)["tab"].to_list() == [0, 1]


def test_units_are_numbered_and_can_be_pickled(tmp_path: Path) -> None:
    source = KuaiRand(block_bytes=100)
    raw = _archive(tmp_path, log=_csv(*[_EXPOSURE] * 9))
    units = source.units(raw, workdir="", days=[])
    assert [unit.index for unit in units] == list(range(len(units)))
    assert len({unit.where for unit in units}) == len(units) > 3
    assert pickle.loads(pickle.dumps((source, units))) == (source, units)


@settings(max_examples=40)
@given(
    block_bytes=st.integers(50, 400),
    edits=st.lists(
        st.tuples(st.integers(0, 600), st.sampled_from([b"\n", b",", b'"', b"-", b"9", b"\0", b"\xff"])),
        max_size=3,
    ),
)
def test_damaged_logs_drop_rows_or_are_refused_the_same_for_any_cut(
    tmp_path_factory: pytest.TempPathFactory, block_bytes: int, edits: list[tuple[int, bytes]]
) -> None:
    head, log = _csv(*(_EXPOSURE | {"user_id": str(i)} for i in range(6))).encode().split(b"\n", 1)
    for at, new in edits:
        log = log[:at] + new + log[at + 1 :]
    raw = _archive(tmp_path_factory.getbasetemp() / "damaged", log=head + b"\n" + log)
    try:
        whole = _read(raw)
    except UserError:
        with pytest.raises(UserError):
            _read(raw, block_bytes=block_bytes)
    else:
        assert_frame_equal(_read(raw, block_bytes=block_bytes), whole)
        assert len(whole) == sum(line != b"" for line in log.split(b"\n"))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"log": ""}, f"{_LOG} is empty"),
        ({"log": b"PK\3\4\0\0"}, f"{_LOG} is binary"),
        ({"log": _csv(_EXPOSURE).encode() + b"7,\xff\n"}, f"{_LOG} is binary"),
        ({"log": _csv(_EXPOSURE)[:-20]}, f"{_LOG} is truncated"),
        ({"log": _csv(_EXPOSURE).replace("time_ms,", "time,", 1)}, f"{_LOG}: .* no column 'time_ms'"),
        ({"users": _csv(_USER).replace("onehot_feat9", "x")}, f"{_USERS}: .* no column 'onehot_feat9'"),
        ({"videos": _csv(_VIDEO).replace("tag", "x")}, f"{_VIDEOS}: .* no column 'tag'"),
        ({"users": _csv(_USER)[:-30]}, f"{_USERS} is truncated"),
        ({"videos": _csv(_VIDEO) + "4,1\n"}, f"{_VIDEOS}: 1 rows have more or fewer fields"),
    ],
)
def test_files_that_do_not_belong_to_the_archive_are_named(
    tmp_path: Path, files: dict[str, str | bytes], says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        _read(_archive(tmp_path, **files))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [_USERS, _VIDEOS])
def test_a_missing_side_table_is_named(tmp_path: Path, name: str) -> None:
    raw = _archive(tmp_path)
    (tmp_path / "data" / name).unlink()
    with pytest.raises(UserError, match=f"cannot read .*{name}"):
        KuaiRand().units(raw, workdir="", days=[])


def test_a_log_that_cannot_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    raw = _archive(tmp_path)
    odd = os.fsencode(tmp_path) + b"/data/log_standard_\xff_pure.csv"
    shutil.copy(tmp_path / "data" / _LOG, odd)
    with pytest.raises(
        UserError, match=r"^b'.*/log_standard_\\xff_pure\.csv': this path is not UTF-8; rename"
    ):
        KuaiRand().units(raw, workdir="", days=[])
    os.remove(odd)
    os.mkfifo(tmp_path / "data/log_standard_fifo_pure.csv")
    with pytest.raises(UserError, match=r"fifo_pure\.csv: it is not a regular file; expected a CSV file$"):
        KuaiRand().units(raw, workdir="", days=[])


def test_a_wrong_folder_is_explained(tmp_path: Path) -> None:
    raw = _archive(tmp_path / "KuaiRand-Pure")
    for passed, says in [
        (f"{raw}s", r"KuaiRand-Pures', which is not a folder; .* holds data/log_standard_\*_pure\.csv"),
        (f"{raw}/data", "pass the folder above it"),
        (str(tmp_path), r"no KuaiRand logs in '[^']*'; expected"),
    ]:
        with pytest.raises(UserError, match=says):
            KuaiRand().units(passed, workdir="", days=[])


def test_block_bytes_are_checked() -> None:
    with pytest.raises(UserError, match="block_bytes is 0, expected at least 1"):
        KuaiRand(block_bytes=0)


def test_the_real_archive(shared_data: Path) -> None:
    frame = _read(str(shared_data / "KuaiRand-Pure"), block_bytes=1 << 20)
    assert len(frame) == 171_805
    assert frame["dropped"].null_count() == len(frame)
    key = ["user_id", "video_id", "event_time_us"]
    distinct = frame.unique([*key, "content"])
    assert len(frame) - len(distinct) == 4_397
    assert len(distinct) - distinct.n_unique(key) == 353
    days = frame.select(day=slice_expr("event_time_us", time_zone="Asia/Shanghai", slice_days=1))
    counts = dict(days.group_by("day").len().rows())
    assert counts[date(2022, 4, 24)] == 141
    assert len(counts) == 11
    assert frame["click"].sum() == 76_144
    assert frame["register_days"].null_count() == frame["author_id"].null_count() == 0
