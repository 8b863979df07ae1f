"""Networks and losses. Its public names are in `__all__`, and are imported when they are first asked for.

TensorFlow Recommenders is built on Keras 2, which TensorFlow takes up only where TF_USE_LEGACY_KERAS says so by the
time that `tf.keras` is first used. This is the one place that says so: every module that needs Keras is in this room
or imports it.
"""

import importlib
import os
import sys
from typing import Any

_PUBLIC = {
    "Backbone": "backbones.base",
    "Batch": "batch",
    "CrossEntropy": "losses",
    "DCNv2": "backbones.dcn",
    "DLRM": "backbones.dlrm",
    "Distillation": "config",
    "InputSpec": "backbones.base",
    "Inputs": "backbones.base",
    "Listwise": "losses",
    "LogitMSE": "losses",
    "MLP": "backbones.mlp",
    "MMoE": "backbones.mmoe",
    "ModelConfig": "config",
    "Quality": "task_kinds",
    "Ranker": "ranker",
    "SoftLoss": "losses",
    "SquaredError": "losses",
    "TargetAttention": "backbones.attention",
    "TaskKind": "task_kinds",
    "ZilnKL": "losses",
    "distil": "config",
    "fingerprint": "id_map",
    "masked_mean": "backbones.attention",
}
"""The module of each public name."""

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def _choose_keras_2() -> None:
    """Raise ImportError where TensorFlow has taken up another Keras already."""
    if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "True", "true"):
        return
    # TensorFlow looks at the variable when `tf.keras` is first used, and shows until then that it was not.
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and repr(vars(tensorflow).get("keras")) != "<KerasLazyLoader>":
        raise ImportError(
            "tf.keras was used before tutelage.models was imported, and is Keras 3, but tutelage.models needs Keras 2: "
            "import tutelage.models before the first use of tf.keras, or set TF_USE_LEGACY_KERAS=1 in the environment"
        )
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    if tensorflow is not None:
        # TensorFlow has set up `import tensorflow.keras` for Keras 3 by now: let it find what `tf.keras` is.
        sys.modules["tensorflow.keras"] = importlib.import_module("tf_keras.api._v2.keras")


_choose_keras_2()
