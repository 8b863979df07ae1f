"""TensorFlow, imported when it is first used.

A config names losses and task kinds. A command that only reads a config (`tutelage-status`, a Beam job) must not wait
two seconds for TensorFlow, so the modules of losses and kinds take `tf` from here.
"""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["tf"]

if TYPE_CHECKING:
    import tensorflow as tf
else:

    class _TensorFlow:
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("tensorflow"), name)

    tf = _TensorFlow()
