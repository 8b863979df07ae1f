"""How students are served: the combined score, the limits of the gate, the number of versions that stay."""

import keyword
import math
import re
from dataclasses import dataclass
from typing import Literal

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema

# A signature's input is the parameter of a function and part of an op's name. TensorFlow would change any
# other name.
_INPUT = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """How students are served. It may be changed in a workdir at any time."""

    score: tuple[tuple[str, float], ...]
    """(served output, weight) pairs: the served output `score` is Σ weight · output."""
    keep: int = 10
    """How many of the newest versions stay in the served folder. Pinned versions stay as well."""
    auc_drop: float = 0.03
    """How much lower the AUC may be than the served version's on the same rows. A version is rejected if it is worse by
    more than this with 95 % confidence."""
    entropy_rise: float = 0.05
    """... how much higher the normalised entropy, as a share of the served version's."""
    squared_error_rise: float = 0.15
    """... how much higher the relative squared error of a value task, as a share of the served version's."""
    calibration_drift: float = 0.20
    """... how much further from 1 the calibration."""
    undecided: Literal["pass", "wait"] = "pass"
    """What becomes of a version where the rows are too few to tell whether it is worse by more than that. `pass`: it is
    served; `wait`: it is not, and the next day's is judged."""
    max_bytes: int = 500_000_000
    """Largest size of a version's folder."""
    max_latency_ms: float = 50.0
    """Largest median latency of calls with 100 rows."""

    def __post_init__(self) -> None:
        names = [name for name, _ in self.score]
        if not names or len(set(names)) < len(names) or not all(math.isfinite(w) for _, w in self.score):
            raise UserError(
                f"serving: score is {self.score!r}, expected at least one (served output, weight) pair, "
                "each output once and each weight a finite number"
            )
        if self.undecided not in ("pass", "wait"):
            raise UserError(f"serving: undecided is {self.undecided!r}, expected pass or wait")
        for margin in ("auc_drop", "entropy_rise", "squared_error_rise", "calibration_drift"):
            if not 0 <= (value := getattr(self, margin)) < math.inf:
                raise UserError(f"serving: {margin} is {value}, expected a number of at least 0")
        for bound in ("keep", "max_bytes"):
            if (value := getattr(self, bound)) < 1:
                raise UserError(f"serving: {bound} is {value}, expected at least 1")
        if not 0 < self.max_latency_ms < math.inf:
            raise UserError(f"serving: max_latency_ms is {self.max_latency_ms}, expected a number above 0")

    def check(self, schema: Schema) -> None:
        """Raise UserError if models of `schema` cannot be served with this configuration."""
        outputs = [task.score for task in schema.tasks]
        for name, _ in self.score:
            if name not in outputs:
                raise UserError(f"serving: score names {name!r}; the served outputs are {', '.join(outputs)}")
        if "score" in outputs:
            raise UserError(
                "serving: a task's output is called 'score', like the combined score; rename the task"
            )
        for feature in schema.features:
            if not _INPUT.fullmatch(feature.name) or keyword.iskeyword(feature.name):
                raise UserError(
                    f"feature {feature.name!r} cannot be the name of a served input: expected a-z, 0-9 and _, "
                    "beginning with a letter, and no Python keyword; rename it"
                )
