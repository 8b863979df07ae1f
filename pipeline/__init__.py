"""The data plane: schema, sources, tables, the store of soft labels, and the Beam jobs that fill the tables.

The public names are loaded when they are first used, so importing this package loads neither TensorFlow nor Beam.
"""

import importlib
from typing import Any

_MODULES = {
    "Check": "verdict",
    "DataFile": "table",
    "Downsampling": "schema",
    "Feature": "schema",
    "Files": "sources.files",
    "Growth": "schema",
    "History": "schema",
    "JoinedLabels": "soft_labels",
    "KuaiRand": "sources.kuairand",
    "LabelPartition": "soft_labels",
    "LabelRequest": "soft_labels",
    "Lake": "lake",
    "MovieLens": "sources.movielens",
    "Negatives": "schema",
    "QualityConfig": "quality",
    "RawFile": "sources.base",
    "Schema": "schema",
    "Side": "sources.side",
    "SoftLabelStore": "soft_labels",
    "Source": "sources.base",
    "Synthetic": "sources.synthetic",
    "Table": "table",
    "Task": "schema",
    "Unit": "sources.base",
    "UserError": "errors",
    "Verdict": "verdict",
    "labels_before_update": "soft_labels",
    "labels_by_snapshot": "soft_labels",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
