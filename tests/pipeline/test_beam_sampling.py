"""Beam's sampler has a shorter period inside a job of ours, and Beam's own outside of it."""

from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.runners.worker import statesampler
from apache_beam.utils.counters import CounterFactory

from tutelage.pipeline.beam_engines import DEFAULT_RUNNER
from tutelage.pipeline.beam_sampling import short_sampling_period


def _period() -> int:
    return statesampler.StateSampler("stage", CounterFactory()).sampling_period_ms


class Period(beam.DoFn):
    """Yields the sampling period of the bundle that it runs in."""

    def process(self, element: int) -> Iterator[int]:
        yield statesampler.get_current_tracker().sampling_period_ms


def _expect(found: int, expected: int) -> None:
    assert found == expected


def test_a_bundle_is_sampled_every_20_ms_inside_a_job() -> None:
    with short_sampling_period(), beam.Pipeline(runner=DEFAULT_RUNNER) as pipeline:
        found = pipeline | beam.Create([1], reshuffle=False) | beam.ParDo(Period())
        _ = found | beam.Map(_expect, expected=20)


def test_beams_own_period_is_back_after_a_job_and_after_a_failed_one() -> None:
    assert _period() == 200
    with short_sampling_period():
        assert _period() == 20
    assert _period() == 200
    with pytest.raises(ZeroDivisionError), short_sampling_period():
        raise ZeroDivisionError
    assert _period() == 200


def test_beams_own_period_is_back_when_jobs_of_two_threads_overlap() -> None:
    one, two = short_sampling_period(), short_sampling_period()
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    two.__exit__(None, None, None)
    assert _period() == 200
