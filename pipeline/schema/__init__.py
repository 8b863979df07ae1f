"""What a record is: its features, its tasks and the columns of the tables. Imports neither TensorFlow nor Beam."""

from tutelage.pipeline.schema.features import DEFAULTS, Feature, Growth, History
from tutelage.pipeline.schema.schema import Schema, check_time_zone
from tutelage.pipeline.schema.tables import METRICS, STATISTICS, history_columns, interaction_columns
from tutelage.pipeline.schema.tasks import SAMPLING_RATE, Downsampling, Negatives, Task

__all__ = [
    "DEFAULTS",
    "METRICS",
    "SAMPLING_RATE",
    "STATISTICS",
    "Downsampling",
    "Feature",
    "Growth",
    "History",
    "Negatives",
    "Schema",
    "Task",
    "check_time_zone",
    "history_columns",
    "interaction_columns",
]
