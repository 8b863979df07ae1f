"""Networks and losses.

TensorFlow Recommenders is built on Keras 2, which TensorFlow takes up only if it is told to before
its first import. This is the one place that tells it: every module that needs Keras is in this room
or imports it.
"""

import os
import sys

if os.environ.get("TF_USE_LEGACY_KERAS") not in ("1", "True", "true"):
    if "tensorflow" in sys.modules:
        raise ImportError(
            "tensorflow was imported before tutelage.models, which needs Keras 2: "
            "import tutelage.models first, or set TF_USE_LEGACY_KERAS=1 in the environment"
        )
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
