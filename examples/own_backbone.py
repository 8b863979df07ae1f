"""Networks of one's own: a transformer over the videos that a user clicked teaches a two-tower student."""

from dataclasses import dataclass, replace
from functools import partial

from tutelage.launch.configs import synthetic as base  # or kuairand, with --raw_dir
from tutelage.models import Backbone, InputSpec, distil
from tutelage.pipeline.schema import History
from tutelage.trainers.config import StudentConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer(Backbone):
    """The candidate and the videos that the user clicked on earlier days attend to each other."""

    layers: int = 1

    def build(self, spec: InputSpec):
        from tensorflow.keras import Model, layers

        inputs = spec.keras_inputs()
        x = layers.Concatenate(axis=1)([inputs.embeddings["video_id"][:, None], inputs.items["history"]])
        there = layers.Concatenate()([inputs.masks["history"][:, :1] * 0 + 1, inputs.masks["history"]])
        for _ in range(self.layers):
            attended = layers.MultiHeadAttention(4, spec.dim // 4)(x, x, attention_mask=there[:, None, :] > 0)
            x = layers.LayerNormalization()(x + attended)
            x = layers.LayerNormalization()(x + layers.Dense(spec.dim)(layers.Dense(2 * spec.dim, "relu")(x)))
        joined = layers.Concatenate()([spec.join()(inputs), x[:, 0]])
        return Model(inputs, layers.Dense(128, "relu")(layers.Dense(256, "relu")(joined)))


def two_towers(spec: InputSpec, *, units: int):
    """A function is a backbone too: towers of the user and of the candidate, and their product."""
    from tensorflow.keras import Model, layers

    inputs, towers = spec.keras_inputs(), []
    for names in (spec.of_user & {*spec.single}, {*spec.single} - spec.of_user):
        x = layers.Concatenate()([inputs.embeddings[name] for name in sorted(names)])
        towers.append(layers.Dense(units)(layers.Dense(2 * units, "relu")(x)))
    return Model(inputs, layers.Concatenate()([*towers, towers[0] * towers[1], inputs.numbers]))


def experiment(*, smoke: bool):
    made = base.experiment(smoke=smoke)
    schema = replace(made.schema, histories=(History(of="video_id", where="click"),))
    teacher = replace(made.teacher, model=replace(base.TEACHER, backbone=Transformer()))
    model = replace(base.STUDENT, backbone=partial(two_towers, units=16), without=("history",))
    student = StudentConfig(name="two_towers", model=model, distillation=distil(*base.TASKS))
    return replace(made, name="own", schema=schema, teacher=teacher, students=(student,), study=None)
