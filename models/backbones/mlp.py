"""A multi-layer perceptron over the joined inputs, and the layer that the other backbones of this room extend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.models.backbones.base import Backbone, InputSpec, check_hidden

if TYPE_CHECKING:
    from tutelage.models.backbones.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class MLP(Backbone):
    """Dense layers with ReLU over the joined inputs.

    `score_list` computes the user's share of the first layer once for all candidates.

    >>> MLP(hidden=(64, 32))
    MLP(hidden=(64, 32))
    """

    hidden: tuple[int, ...]
    """Units of the layers, first to last."""

    def __post_init__(self) -> None:
        check_hidden("MLP", self.hidden)

    def build(self, spec: InputSpec) -> Stack:
        from tutelage.models.backbones.stack import Stack

        return Stack(spec, self.hidden)
