"""The verdict of a gate: on a day of data, on a day of training, or on a version that is to be served."""

from dataclasses import dataclass
from typing import Literal

_NAMED = 3
"""How many failed checks a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One value that a gate compared with its bound.

    Example:
        >>> Check(name="auc", value=0.61, bound=0.7, passed=False).describe()
        'auc is 0.61, 0.7 is the bound'
    """

    name: str
    value: float | None
    """None: it is missing."""
    reference: float | None = None
    """What it is compared with; None: there is nothing to compare it with."""
    bound: float | None = None
    """The worst value that passes."""
    detail: str = ""
    """What was found, where it is not a number."""
    passed: bool

    def describe(self) -> str:
        """Return the value and its bound in a few words."""
        if self.detail:
            return f"{self.name}: {self.detail}"
        bound = "" if self.bound is None else f", {self.bound:.6g} is the bound"
        return f"{self.name} is {'missing' if self.value is None else format(self.value, '.6g')}{bound}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a gate's checks.

    `pass`; `first`: there was nothing to compare with; `fail`; `error`: the checks could not be made; `wait`: there was
    too little to tell, and the gate is told not to pass that.
    """

    verdict: Literal["pass", "first", "fail", "error", "wait"]
    checks: tuple[Check, ...] = ()
    reason: str = ""

    @property
    def blessed(self) -> bool:
        """Whether it passed."""
        return self.verdict in ("pass", "first")

    def __str__(self) -> str:
        """Return the verdict in one line, with up to three failed checks and their values."""
        return self.describe()

    def describe(self, *, where: str = "") -> str:
        """Return the verdict in one line; `where` says where to find the failed checks beyond the third.

        Example:
            >>> checks = [Check(name=name, value=1.0, passed=False) for name in "abcde"]
            >>> Verdict(verdict="fail", checks=tuple(checks)).describe(where="the card")
            'fail; a is 1; b is 1; c is 1; and 2 more (see the card)'
        """
        failed = [check.describe() for check in self.checks if not check.passed]
        more = [f"and {len(failed) - _NAMED} more" + (f" (see {where})" if where else "")]
        reason = [self.reason] if self.reason else []
        return "; ".join([self.verdict, *failed[:_NAMED], *(more if len(failed) > _NAMED else []), *reason])
