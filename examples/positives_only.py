"""A first config for logs of one's own, drafted by tutelage-init. `--raw_dir` is their folder."""

# Read 9,000 rows of events.csv (all).
# 2026-01-05 to 2026-02-15: 7,500 rows a week with sampled negatives.
#
# Look at these guesses first:
# - each row is a positive: no column looks like a label, so negatives are sampled
# - every feature is known before the event; take out what is known only after it
#
# `tutelage-materialize --dry_run` shows what this config makes of the logs, and writes nothing.

from tutelage.export import ServingConfig
from tutelage.launch import Experiment
from tutelage.models import MLP, DCNv2, ModelConfig, distil
from tutelage.pipeline import Feature, Files, Negatives, Schema, Side, Task
from tutelage.trainers import StudentConfig, TeacherConfig, TrainingConfig

SCHEMA = Schema(
    features=(
        # the user; 300 ids (one is -1, which models see where it is missing, too)
        Feature(name="reader", dtype="int64", capacity=1_000, scope="user"),
        # the item; 200 ids (one is -1, which models see where it is missing, too)
        Feature(name="article", dtype="int64", capacity=500),
        # 2 ids
        Feature(name="device", dtype="string", capacity=100, scope="user"),
        # 4 ids
        Feature(name="topic", dtype="string", capacity=100),
        # from 200 to 3175
        Feature(name="words", dtype="float32", log1p=True),
    ),
    tasks=(
        # every row, against items that are sampled
        Task(name="interaction", label="interaction"),
        # 'open' 78.9%, 'like' 15.9%, 'share' 5.2%
        Task(name="like_or_share", label="like_or_share"),
    ),
    key=("reader", "article", "event_time_us"),  # what tells one row from another; a repeated one is dropped
    user="reader",
    # For each row so many with items that the user did not meet in the slice, and labels of 0.
    negatives=Negatives(item="article", per_positive=4),
    slice_days=7,  # a day has few rows
    slice_weekday="monday",
    time_zone="UTC",  # days begin at midnight there
)

TEACHER = ModelConfig(
    embedding_dim=16, backbone=DCNv2(hidden=(64, 32), cross_layers=1), embedding_rate=0.2, dense_rate=2e-3
)
STUDENT = ModelConfig(embedding_dim=8, backbone=MLP(hidden=(32, 16)), embedding_rate=0.2, dense_rate=2e-3)


def experiment(*, smoke: bool) -> Experiment:
    """Return the days that the logs had; smoke: the first two slices."""
    return Experiment(
        name="positives_only",
        source=Files(
            pattern="events.csv",
            schema=SCHEMA,
            event_time="when",
            time_zone="UTC",  # of times that name none
            expressions=(
                ("interaction", "1"),
                ("like_or_share", "event IN ('like', 'share')"),
            ),
            sides=(
                Side(
                    name="articles",
                    pattern="articles.csv",
                    key=(("article", "article"),),
                    columns=(
                        ("topic", "topic"),
                        ("words", "words"),
                    ),
                ),
            ),
        ),
        schema=SCHEMA,
        # About 117 updates of each model a week.
        training=TrainingConfig(batch_size=64),
        teacher=TeacherConfig(model=TEACHER),
        students=(
            StudentConfig(name="control", model=STUDENT),
            StudentConfig(
                name="auxiliary",
                model=STUDENT,
                distillation=distil("interaction", "like_or_share"),
                baseline="control",
            ),
        ),
        serving=ServingConfig(score=(("interaction", 1.0), ("like_or_share", 1.0))),
        start_day="2026-01-05",
        end_day="2026-01-18" if smoke else "2026-02-15",  # every night: "yesterday"
    )
