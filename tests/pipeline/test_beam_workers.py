"""A job whose worker process is killed ends, and leaves no other worker behind."""

import threading
import time

import apache_beam as beam
import psutil
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from tutelage.pipeline.beam_engines import DEFAULT_RUNNER
from tutelage.pipeline.beam_workers import until_killed
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
        until_killed(_sleep)
    killer.join()
    assert psutil.wait_procs(_workers(), timeout=10)[1] == []


def test_what_the_job_raises_is_raised() -> None:
    def fail() -> None:
        raise ZeroDivisionError("as it was")

    with pytest.raises(ZeroDivisionError, match="as it was"):
        until_killed(fail)
    until_killed(lambda: None)
