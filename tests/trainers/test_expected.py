"""What is expected of a day, by hand."""

import math

import numpy as np
import pytest

from tutelage.trainers.expected import Past, _wander, drifted, expected_today, unsettled


def _past(*values: float, error: float = 0.0, weekdays: bool = False, accepted: int | None = None) -> Past:
    days = np.arange(len(values))
    return Past(
        values=np.array(values, float),
        errors=np.full(len(values), error),
        weekdays=days % 7 if weekdays else None,
        accepted=days == accepted,
    )


def test_the_error_of_a_day_is_that_of_its_rows_and_the_part_of_the_spread_that_earlier_rows_do_not_explain() -> (
    None
):
    # One forecast was made: 0, off by 2.
    found = expected_today(_past(0, 2), error=3.0, weekday=None, level_days=7)
    assert (found.centre, found.low, found.high) == (1, 1, 1)
    assert found.error == pytest.approx(math.sqrt(2**2 + 3**2))
    # Of a variance of 13 a part of 4 was estimated from one deviation.
    assert found.dof == pytest.approx((13 / 4) ** 2)
    # The rows of the day explain 1.5² of 2².
    found = expected_today(_past(0, 2, error=1.5), error=3.0, weekday=None, level_days=7)
    assert found.error == pytest.approx(math.sqrt(4 - 2.25 + 9))
    # They explain all of it.
    found = expected_today(_past(0, 2, error=5.0), error=3.0, weekday=None, level_days=7)
    assert (found.error, found.dof) == (3.0, 0.5)


def test_one_bad_day_neither_moves_the_centre_nor_widens_the_bounds_for_long() -> None:
    quiet = [0.0, 1.0, 0.0, -1.0] * 6
    sound = expected_today(_past(*quiet), error=0.0, weekday=None, level_days=7)
    bad = expected_today(_past(*quiet[:-1], 100.0), error=0.0, weekday=None, level_days=7)
    assert bad.centre == sound.centre
    assert bad.error < 2 * sound.error  # not 20 times
    # A person accepted it: as bad a day is fine for a week.
    accepted = expected_today(_past(*quiet[:-1], 100.0, accepted=23), error=0.0, weekday=None, level_days=7)
    assert (accepted.low, accepted.high) == (sound.centre, 100.0)


def test_a_weekday_has_its_own_centre_after_three_weeks_and_is_as_the_last_one_before() -> None:
    weeks = [0.0, 0.1, -0.1, 0.0, 0.1, -0.1, 5.0] * 4
    sunday, monday = (
        expected_today(_past(*weeks[:n], weekdays=True), error=0.0, weekday=n % 7, level_days=7)
        for n in (27, 28)
    )
    assert sunday.centre == pytest.approx(5.0, abs=0.15)
    assert monday.centre == pytest.approx(0.0, abs=0.15)
    assert max(sunday.error, monday.error) < 0.5
    second = expected_today(_past(*weeks[:13], weekdays=True), error=0.0, weekday=6, level_days=7)
    assert (second.low, second.high) == (pytest.approx(second.centre), 5.0)
    first = expected_today(_past(*weeks[:6], weekdays=True), error=0.0, weekday=6, level_days=7)
    assert first.dof == 1


def test_a_value_that_wanders_has_a_wider_sum_of_deviations() -> None:
    assert _wander(np.array([1.0, -1.0] * 8)) == 1.0
    # Of 15 neighbours 8 are alike: r = (1/16 · 16 + 1) / 13.
    r = 2 / 13
    assert _wander(np.array([1.0, 1.0, -1.0, -1.0] * 4)) == pytest.approx(math.sqrt((1 + r) / (1 - r)))


def test_a_drift_is_summed_from_the_day_on_which_it_began() -> None:
    quiet = [1.0, -1.0] * 8  # a standard deviation of 1
    found = drifted(_past(*quiet, 0, 0, 0, 0, 3, 4, 5), error=0.0, weekday=None, worse=1)
    assert found
    assert found.days == 3
    # Each day's deviation is a little less as a normal deviate, because 16 days are not many; less 1 of each.
    assert 4.5 < found.spent < 3 + 4 + 5 - 3
    assert found.room(6.0) < 6.0 + 1.0 - found.spent + 0.5
    better = drifted(_past(*quiet, 0, 0, 0, 0, 3, 4, 5), error=0.0, weekday=None, worse=-1)
    assert better
    assert (better.spent, better.days) == (0.0, 0)
    accepted = drifted(_past(*quiet, 0, 0, 0, 0, 3, 4, 5, accepted=22), error=0.0, weekday=None, worse=1)
    assert accepted
    assert (accepted.spent, accepted.expected.high) == (0.0, 5.0)
    assert drifted(_past(*quiet, 3, 4), error=0.0, weekday=None, worse=1) is None


def test_a_value_settles_once_it_improves_by_no_more_than_noise() -> None:
    improving, level = [0.1 * n for n in range(8)], [0.1, 0.11, 0.1, 0.09, 0.1, 0.11, 0.1, 0.1]
    assert unsettled(_past(*improving), 0.02, better=1)
    assert not unsettled(_past(*improving), 0.5, better=1)  # by less than what matters
    assert not unsettled(_past(*improving), 0.02, better=-1)  # getting worse is no excuse
    assert unsettled(_past(*improving), 0.02, better=0)
    assert not unsettled(_past(*level), 0.02, better=1)
    assert not unsettled(_past(*[0.1 * n for n in range(21)]), 0.02, better=1)  # not for ever
