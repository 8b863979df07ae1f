"""The versions of a model: numbers that are never reused, and a served folder that only ever holds whole versions.

This is written by hand because no library keeps these two promises together. TensorFlow Serving serves the
highest number that it finds in a folder, at any instant, and knows a version by its number alone. So a version
may appear only by one rename, a new version must be in before an old one goes out, and a number must stay used
after its version was deleted.
"""

from tutelage.export.versions.store import Versions
from tutelage.export.versions.version import (
    CARD,
    DIGESTS,
    GRAPH,
    Version,
    damage,
    numbered,
    versions_in,
    write_digests,
)

__all__ = [
    "CARD",
    "DIGESTS",
    "GRAPH",
    "Version",
    "Versions",
    "damage",
    "numbered",
    "versions_in",
    "write_digests",
]
