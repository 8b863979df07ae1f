"""Training-serving skew: whether logged production requests look like the day that a model was trained on."""

from tutelage.export.skew.compare import FeatureSkew, OutputSkew, SkewConfig, compare
from tutelage.export.skew.requests import Requests, read_requests

__all__ = ["FeatureSkew", "OutputSkew", "Requests", "SkewConfig", "compare", "read_requests"]
