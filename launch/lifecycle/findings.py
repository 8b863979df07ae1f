"""What a check of a workdir finds, and what mends it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["damaged", "missing", "stale", "orphaned"]
By = Literal["run", "repair", "hand"]
"""Who mends it: `tutelage-run`, without being asked; `tutelage-verify --repair`, because it removes or retrains
something; or a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it was written, with what mends it.

    >>> print(Finding(kind="damaged", what="config.json is empty", remedy="restore it from a backup", by="hand"))
    damaged: config.json is empty; restore it from a backup
    """

    kind: Kind
    what: str
    remedy: str
    by: By
    mend: Callable[[], object] | None = None
    """What `--repair` does, and the run where it is `by` it; None: a later step of the run does it, or nobody."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}; {self.remedy}"
