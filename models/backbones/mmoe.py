"""MMoE: experts that all tasks share, mixed by a gate per task (Ma et al., KDD 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.models.backbones.base import Backbone, InputSpec, check_hidden
from tutelage.pipeline.errors import UserError

if TYPE_CHECKING:
    from tutelage.models.backbones.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class MMoE(Backbone):
    """Dense layers that all tasks share, then experts mixed for each task by its gate (MMoE: Ma et al., KDD 2018).

    Interactions may come first: cross layers as in `DCNv2`, or dot products as in `DLRM`.

    >>> MMoE(hidden=(64, 32), experts=4)
    MMoE(hidden=(64, 32), experts=4, cross_layers=0, dot_interaction=False)
    """

    hidden: tuple[int, ...]
    """Units of the shared dense layers, first to last, then those of each expert."""
    experts: int
    """Number of experts."""
    cross_layers: int = 0
    """Number of cross layers before the dense ones."""
    dot_interaction: bool = False
    """Whether dot products of all pairs of embeddings come before the dense layers."""

    def __post_init__(self) -> None:
        check_hidden("MMoE", self.hidden, least=2)
        if self.experts < 1 or self.cross_layers < 0:
            raise UserError(
                f"MMoE: experts is {self.experts} and cross_layers {self.cross_layers}, expected at least 1 and 0"
            )
        if self.dot_interaction and self.cross_layers:
            raise UserError(
                f"MMoE: dot_interaction and {self.cross_layers} cross_layers: expected one kind of interaction"
            )

    def build(self, spec: InputSpec) -> Stack:
        from tutelage.models.backbones.dcn import cross
        from tutelage.models.backbones.interactions import DotInteraction, MultiGate
        from tutelage.models.backbones.stack import Stack

        return Stack(
            spec,
            self.hidden[:-1],
            cross=cross(spec, self.cross_layers) if self.cross_layers else None,
            dot=DotInteraction(spec.dim) if self.dot_interaction else None,
            gates=MultiGate(experts=self.experts, units=self.hidden[-1], tasks=len(spec.tasks)),
        )
