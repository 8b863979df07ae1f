"""DCN-v2: explicit crosses of the joined inputs before the dense layers (arXiv 2008.13535)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.models.backbones.base import Backbone, InputSpec, check_hidden
from tutelage.pipeline.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

    from tutelage.models.backbones.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class DCNv2(Backbone):
    """Cross layers of rank a quarter of their input, then dense layers with ReLU (DCN-v2, arXiv 2008.13535, stacked).

    >>> DCNv2(hidden=(256, 128), cross_layers=2)
    DCNv2(hidden=(256, 128), cross_layers=2)
    """

    hidden: tuple[int, ...]
    """Units of the dense layers, first to last."""
    cross_layers: int
    """Number of cross layers."""

    def __post_init__(self) -> None:
        check_hidden("DCNv2", self.hidden)
        if self.cross_layers < 1:
            raise UserError(
                f"DCNv2: cross_layers is {self.cross_layers}, expected at least 1; without any, use MLP"
            )

    def build(self, spec: InputSpec) -> Stack:
        from tutelage.models.backbones.stack import Stack

        return Stack(spec, self.hidden, cross=cross(spec, self.cross_layers))


def cross(spec: InputSpec, layers: int) -> tf.keras.layers.Layer:
    """Return `layers` cross layers for the joined inputs, float32 [batch, width] to [batch, width]."""
    from tutelage.models.tfrs import MultiLayerDCN

    return MultiLayerDCN(projection_dim=max(1, spec.width // 4), num_layers=layers)
