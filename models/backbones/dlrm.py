"""DLRM: dot products of all pairs of embeddings before the dense layers (arXiv 1906.00091)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.models.backbones.base import Backbone, InputSpec, check_hidden

if TYPE_CHECKING:
    from tutelage.models.backbones.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class DLRM(Backbone):
    """Dot products of all pairs of embeddings, then dense layers with ReLU (Naumov et al., arXiv 1906.00091).

    It needs at least two vectors: `build`'s layer raises UserError for a model with fewer.

    >>> DLRM(hidden=(256, 128))
    DLRM(hidden=(256, 128))
    """

    hidden: tuple[int, ...]
    """Units of the dense layers, first to last."""

    def __post_init__(self) -> None:
        check_hidden("DLRM", self.hidden)

    def build(self, spec: InputSpec) -> Stack:
        from tutelage.models.backbones.interactions import DotInteraction
        from tutelage.models.backbones.stack import Stack

        return Stack(spec, self.hidden, dot=DotInteraction(spec.dim))
