"""Checkpoints and events in an object store, on a real S3 server."""

from datetime import date, timedelta
from pathlib import Path

import pytest
import tensorflow as tf

from tests.faulty import faulty
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.folders import unfinished
from tutelage.pipeline.io.paths import as_path
from tutelage.pipeline.io.scratch import DIGESTS
from tutelage.trainers.checkpoints import STATE, Checkpoints, State
from tutelage.trainers.tensorboard import write_events

DAYS = [date(2026, 1, 1) + timedelta(days=n) for n in range(4)]


def _save(checkpoints: Checkpoints, number: int, day: date) -> State:
    checkpoint = tf.train.Checkpoint(v=tf.Variable([float(number)]))
    return checkpoints.save(checkpoint, State(day=day, step=number, examples=10, rows=10))


def _restored(checkpoints: Checkpoints, day: date) -> list[float]:
    variable = tf.Variable([0.0])
    checkpoints.restore(tf.train.Checkpoint(v=variable), day)
    return list(variable.numpy().tolist())


def _saved(url: str, days: list[date]) -> Checkpoints:
    checkpoints = Checkpoints(as_path(url) / "checkpoints")
    for number, day in enumerate(days, 1):
        _save(checkpoints, number, day)
    return checkpoints


def test_a_day_is_there_once_its_state_is_and_gone_once_that_is_gone(s3: str) -> None:
    checkpoints = _saved(s3, DAYS[:2])
    assert [state.day for state in checkpoints.states()] == DAYS[:2]
    assert _restored(checkpoints, DAYS[1]) == [2.0]
    (checkpoints.folder / str(DAYS[1]) / STATE).unlink()
    assert [state.day for state in checkpoints.states()] == DAYS[:1]
    assert unfinished(checkpoints.folder, STATE) == [checkpoints.folder / str(DAYS[1])]
    _save(checkpoints, 7, DAYS[1])
    assert _restored(checkpoints, DAYS[1]) == [7.0]
    checkpoints.remove_day(DAYS[1])
    assert [path.name for path in checkpoints.folder.iterdir()] == [str(DAYS[0])]


def test_a_pruned_day_keeps_its_state_and_cannot_be_restored(s3: str) -> None:
    checkpoints = _saved(s3, DAYS[:2])
    assert checkpoints.to_prune(DAYS[3]) == DAYS[:1]
    checkpoints.prune(DAYS[0])
    assert [state.pruned for state in checkpoints.states()] == [True, False]
    assert [path.name for path in (checkpoints.folder / str(DAYS[0])).iterdir()] == [STATE]
    assert checkpoints.to_prune(DAYS[3]) == []
    with pytest.raises(UserError, match="was pruned"):
        checkpoints.restore(tf.train.Checkpoint(), DAYS[0])


@pytest.mark.parametrize("file", ["variables.index", "variables.data-00000-of-00001"])
def test_a_damaged_day_is_set_aside_and_the_one_before_it_restored(s3: str, file: str) -> None:
    checkpoints = _saved(s3, DAYS[:2])
    path = checkpoints.folder / str(DAYS[1]) / file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert checkpoints.damaged(newest_size_only=True) == {}
    assert checkpoints.damaged() == {DAYS[1]: "its variables are not what was written"}
    with pytest.raises(UserError, match="is damaged: its files are not those"):
        _restored(checkpoints, DAYS[1])
    assert checkpoints.set_damaged_aside() == {DAYS[1]: "is damaged"}
    assert [state.day for state in checkpoints.states()] == DAYS[:1]
    assert (checkpoints.folder / f".damaged-{DAYS[1]}" / STATE).is_file()
    assert _restored(checkpoints, DAYS[0]) == [1.0]


def test_a_checkpoint_that_another_program_copied_there_is_checked_by_its_state(s3: str) -> None:
    checkpoints = _saved(s3, DAYS[:1])
    folder = checkpoints.folder / str(DAYS[0])
    (folder / DIGESTS).unlink()
    assert _restored(checkpoints, DAYS[0]) == [1.0]
    index = folder / "variables.index"
    index.write_bytes(index.read_bytes() + b"?")
    assert checkpoints.set_damaged_aside() == {DAYS[0]: "is damaged"}


def test_more_days_take_no_more_requests_than_one_for_each_state(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for n in (1, 3):
        _saved(f"{s3}/{n}", DAYS[:n])
        with faulty(s3_endpoint, share=0) as proxy, monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            _forget_clients()
            checkpoints = Checkpoints(as_path(f"{s3}/{n}") / "checkpoints")
            for _ in range(3):
                assert len(checkpoints.states()) == n
            assert checkpoints.to_prune(DAYS[3]) == DAYS[: n - 1]
            assert checkpoints.damaged(newest_size_only=True) == {}
            asked.append(proxy.counts()["passed"] - n)
        _forget_clients()
    assert asked[0] == asked[1] <= 8


def _forget_clients() -> None:
    from tutelage.pipeline.io import paths

    paths._client.cache_clear()


def test_events_of_a_day_replace_those_of_an_earlier_attempt(s3: str, tmp_path: Path) -> None:
    folder = as_path(s3) / "tensorboard"
    row = {"basis": "day_ahead", "task": "click", "metric": "auc", "slice": "", "value": 0.5}
    write_events(folder, [row], day=DAYS[0])
    write_events(folder, [{**row, "value": 0.75}], day=DAYS[0])
    (path,) = folder.iterdir()
    assert path.name == f"events.out.tfevents.{DAYS[0]}"
    path.download(tmp_path / path.name)
    events = tf.compat.v1.train.summary_iterator(str(tmp_path / path.name))
    values = [value for event in events for value in event.summary.value]
    assert [(each.tag, tf.make_ndarray(each.tensor)) for each in values] == [("day_ahead/click/auc", 0.75)]
