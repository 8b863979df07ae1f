"""The false alarms that a user accepts in a year, and how much of that one budget each test of a gate may spend."""

import math
from dataclasses import dataclass

from scipy import special

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmBudget:
    """The share of the false alarms of a year that one gate may give.

    >>> whole = AlarmBudget(per_year=1.0)
    >>> whole.shared(4).per_year
    0.25
    """

    per_year: float
    """Expected number of sound days in a year that this gate reports all the same."""
    slice_days: int = 1
    """Days between two verdicts of the gate (`Schema.slice_days`)."""

    def shared(self, gates: int) -> "AlarmBudget":
        """Return the equal share of each of `gates` gates."""
        return AlarmBudget(per_year=self.per_year / gates, slice_days=self.slice_days)

    def per_test(self, tests: int) -> float:
        """Return the probability with which each of the `tests` of one verdict may fail by chance (Bonferroni)."""
        return min(0.5, self.per_year * self.slice_days / DAYS_PER_YEAR / max(tests, 1))

    def bound(self, tests: int, *, dof: float = float("inf")) -> float:
        """Return how many standard errors a value may be on the wrong side of what is expected.

        It is the quantile of Student's t with `dof` degrees of freedom, for a test of one side. A test that looks at
        both sides counts as two. With few earlier days, `dof` is small and the bound is wide: a model that is new is
        given the room that so little experience leaves.

        >>> budget = AlarmBudget(per_year=1.0)
        >>> round(budget.bound(10), 2), round(budget.bound(10, dof=6), 2), round(budget.bound(10, dof=2), 1)
        (3.46, 6.67, 42.7)
        """
        return float(-special.stdtrit(min(dof, 1e9), self.per_test(tests)))

    def cusum(self, tests: int, *, allowance: float = 1.0) -> float:
        """Return the sum of deviations, in standard errors, at which a drift is reported (CUSUM, Page 1954).

        The sum grows by each verdict's deviation to the wrong side less `allowance`, and is never below 0. Without a
        drift it comes to the limit as often as a single test of `bound` fails: once in 1 / `per_test` verdicts
        (Siegmund, Sequential Analysis, 1985, eq. 2.56).

        >>> round(AlarmBudget(per_year=1.0).cusum(10), 2)
        3.28
        """
        between = 1 / self.per_test(tests)
        height = 1.0  # times twice the allowance; solved by iteration, which converges from any start
        for _ in range(100):
            height = math.log(2 * allowance**2 * between + 1 + height)
        return max(height / (2 * allowance) - 1.166, 0.0)
