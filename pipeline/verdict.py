"""What a gate finds: of a day of data, of a day that was learnt, of a version that is to be served."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    value: float | None
    """None: it is missing."""
    reference: float | None = None
    """What it is compared with; None: there is none."""
    bound: float | None = None
    """The worst value that passes."""
    detail: str = ""
    """What was found, where that is no number."""
    passed: bool

    def describe(self) -> str:
        if self.detail:
            return f"{self.name}: {self.detail}"
        bound = "" if self.bound is None else f", {self.bound:.6g} is the bound"
        return f"{self.name} is {'missing' if self.value is None else format(self.value, '.6g')}{bound}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`pass`; `first`: as there was nothing to compare it with; `fail`; `error`: it could not be judged."""

    verdict: Literal["pass", "first", "fail", "error"]
    checks: tuple[Check, ...] = ()
    reason: str = ""

    @property
    def blessed(self) -> bool:
        return self.verdict in ("pass", "first")

    def __str__(self) -> str:
        """In one line, what failed with its values."""
        failed = [check.describe() for check in self.checks if not check.passed]
        return "; ".join([self.verdict, *failed[:5], *([self.reason] if self.reason else [])])
