"""A job whose worker process is killed ends, and leaves no other worker behind. So does one that nobody works on."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import psutil
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from tests import clusters
from tutelage.pipeline import beam_workers
from tutelage.pipeline.beam_engines import DEFAULT_RUNNER
from tutelage.pipeline.beam_job import Staging, run, staging_folder
from tutelage.pipeline.beam_workers import beating, until_killed
from tutelage.pipeline.errors import TransientError


def _workers() -> list[psutil.Process]:
    return [
        each for each in psutil.Process().children(recursive=True) if "sdk_worker_main" in str(each.cmdline())
    ]


def _sleep() -> None:
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=1"]
    with beam.Pipeline(runner=DEFAULT_RUNNER, options=PipelineOptions(flags)) as pipeline:
        _ = pipeline | beam.Create([600]) | beam.Map(time.sleep)


def _kill_a_worker() -> None:
    while not (workers := _workers()):
        time.sleep(0.01)
    workers[-1].kill()


def test_a_worker_that_is_killed_ends_the_job_in_one_line() -> None:
    killer = threading.Thread(target=_kill_a_worker)
    killer.start()
    with pytest.raises(TransientError, match=r"^a Beam worker was killed \(is there memory enough"):
        until_killed(_sleep, signs=time.monotonic, timeout=60)
    killer.join()
    assert psutil.wait_procs(_workers(), timeout=10)[1] == []


def test_what_the_job_raises_is_raised() -> None:
    def fail() -> None:
        raise ZeroDivisionError("as it was")

    with pytest.raises(ZeroDivisionError, match="as it was"):
        until_killed(fail, signs=lambda: 0, timeout=60)
    until_killed(lambda: None, signs=lambda: 0, timeout=60)


def test_a_job_that_shows_no_sign_of_life_is_cancelled_and_ends_in_one_line() -> None:
    hanging, cancelled = threading.Event(), threading.Event()
    text = "no Beam worker has shown a sign of life for 2 s: they were killed (is there memory enough?), or none has"
    started = time.monotonic()
    with pytest.raises(TransientError, match=f"^{re.escape(text)}"):
        until_killed(hanging.wait, signs=lambda: "the same", timeout=2, cancel=cancelled.set)
    assert 2 <= time.monotonic() - started < 30
    assert cancelled.is_set()
    hanging.set()


def test_a_job_that_shows_signs_of_life_is_waited_for() -> None:
    """It takes longer than the timeout."""
    until_killed(lambda: time.sleep(3), signs=time.monotonic, timeout=1.5)


def test_a_cancellation_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam_workers, "_CANCEL_SECONDS", 0.1)
    hanging = threading.Event()
    with pytest.raises(TransientError, match="no Beam worker"):
        until_killed(hanging.wait, signs=lambda: 0, timeout=1, cancel=hanging.wait)
    hanging.set()


def test_work_shows_signs_of_life_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam_workers, "_BEAT_SECONDS", 0.05)
    path = tmp_path / "0.alive"
    seen = set()
    with beating(path):
        while len(seen) < 3:
            time.sleep(0.01)
            seen |= {path.stat().st_mtime_ns} if path.exists() else set()
    last = path.stat().st_mtime_ns
    time.sleep(0.2)
    assert path.stat().st_mtime_ns == last
    with beating(tmp_path / "gone/0.alive"):  # The driver has given the job up, and removed its folder.
        time.sleep(0.2)


class Sleep(beam.DoFn):
    """Sleeps for longer than the shortest timeout, and leaves a file that says that it was done."""

    def __init__(self, staging: Staging, done: Path):
        self.staging = staging
        self.done = done

    def process(self, group: tuple[int, object]) -> Iterator[int]:
        with self.staging.telling(group[0]):
            time.sleep(25)
        (self.done / f"{group[0]}").touch()
        yield group[0]


def _run_while(tmp_path: Path, flags: list[str], kill: Callable[[], None]) -> set[str]:
    """Run two units of 25 s with a timeout of 20 s, and call `kill` as soon as one shows signs of life."""
    done = tmp_path / "done"
    done.mkdir()
    with staging_folder(tmp_path / "lake") as staging:

        def wait_and_kill() -> None:
            while not any(staging.path.glob("*.alive")):
                time.sleep(0.1)
            kill()

        threading.Thread(target=wait_and_kill, daemon=True).start()
        run(
            lambda pipeline: (
                pipeline
                | beam.Create([(0, None), (1, None)], reshuffle=False)
                | beam.GroupByKey()
                | beam.ParDo(Sleep(staging, done))
            ),
            flags=[*flags, "--worker_timeout=20"],
            staging=staging,
            units=2,
        )
    return {path.name for path in done.iterdir()}


@pytest.mark.cluster
def test_units_longer_than_the_timeout_are_waited_for_and_a_killed_worker_of_dask_is_replaced(
    tmp_path: Path,
) -> None:
    with clusters.dask(tmp_path) as (flags, workers):
        assert _run_while(tmp_path, flags, workers[0].kill) == {"0", "1"}


@pytest.mark.cluster
def test_a_dask_cluster_that_lost_all_workers_ends_the_job_in_one_line(tmp_path: Path) -> None:
    with (
        clusters.dask(tmp_path) as (flags, workers),
        pytest.raises(TransientError, match=r"^no Beam worker has shown a sign of life for 20 s: "),
    ):
        _run_while(tmp_path, flags, lambda: [worker.kill() for worker in workers])


@pytest.mark.cluster
def test_a_killed_worker_of_a_pool_ends_the_job_in_one_line(tmp_path: Path) -> None:
    with (
        clusters.job_service(tmp_path) as (flags, pool),
        pytest.raises(
            TransientError,
            match=r"^(no Beam worker has shown|a Beam worker was killed, and)",
        ),
    ):
        _run_while(
            tmp_path,
            flags,
            lambda: [each.kill() for each in psutil.Process(pool.pid).children(recursive=True)],
        )


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("process", "says"),
    [
        ("SdkHarness", r"^a Beam worker was killed, and PrismRunner has no other for its work \("),
        ("prism_serve", r"^PrismRunner went away before the job ended \(.*\); start it again"),
    ],
)
def test_prism_that_lost_a_worker_or_ends_itself_ends_the_job_in_one_line(
    process: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (prism := shutil.which("prism")):
        pytest.skip("prism is not on the PATH; docs/engines.md says how it is built")
    monkeypatch.setenv("PATH", clusters.PATH)
    own = shutil.copy(prism, tmp_path / "prism_serve")

    def kill() -> None:
        for each in psutil.Process().children(recursive=True):
            if process in " ".join(each.cmdline()):
                each.kill()

    flags = ["--runner=PrismRunner", f"--prism_location={own}"]
    with pytest.raises(TransientError, match=says):
        _run_while(tmp_path, [*flags, "--experiments=use_loopback_process_worker=True"], kill)
