"""Losses on soft labels: a file each, and what they have in common.

A loss of your own derives from `SoftLoss` in your own file; nothing here has to be changed for it.
"""

from collections.abc import Mapping
from types import MappingProxyType

from tutelage.models.losses.base import Rows, SoftLoss
from tutelage.models.losses.cross_entropy import CrossEntropy
from tutelage.models.losses.listwise import Listwise
from tutelage.models.losses.logit_mse import LogitMSE
from tutelage.models.losses.squared_error import SquaredError
from tutelage.models.losses.ziln_kl import ZilnKL

BUILT_IN: Mapping[str, type[SoftLoss]] = MappingProxyType(
    {loss.__name__: loss for loss in (CrossEntropy, Listwise, LogitMSE, SquaredError, ZilnKL)}
)
"""By name, as a command line names them."""

__all__ = ["BUILT_IN", "CrossEntropy", "Listwise", "LogitMSE", "Rows", "SoftLoss", "SquaredError", "ZilnKL"]
