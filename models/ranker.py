"""The ranking model: teacher and students are this one class, in other sizes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tutelage.models.config import Distillation, ModelConfig
from tutelage.models.id_map import Entries, GrowingIdMap, HashedIdMap
from tutelage.models.layers import (
    AuxiliaryTower,
    DotInteraction,
    MultiGate,
    SharedTable,
    TargetAttention,
    finite,
    masked_mean,
)
from tutelage.models.objective import Objective
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, Schema, Task

Outputs = dict[str, tf.Tensor]
Block = tuple[list[Feature], tf.Tensor]
"""Features, and their embeddings side by side, float32 [batch, features * dim]."""


class Batch(NamedTuple):
    """B rows to learn: of a whole day, or those of one update."""

    rows: tf.Tensor
    """int32 [B, slots]: rows of the embedding table, -1 where a list is filled up (`HashedIdMap.lookup`)."""
    numbers: tf.Tensor
    """float32 [B, number features]."""
    labels: tf.Tensor
    """float32 [B, tasks]: the hard targets, log1p taken for a `log1p` task; NaN where one of `Schema.masked` has no
    label, which it then does not learn."""
    weight: tf.Tensor
    """float32 [B]: of the row in every loss; a row of weight 0 is scored and not learnt."""
    soft: tf.Tensor
    """float32 [B, raw outputs]: the teacher's raw outputs; unspecified where `mask` is 0."""
    mask: tf.Tensor
    """float32 [B]: 0 where there is no soft label, else its weight, 1 where nothing says otherwise."""

    def cut(self, start: tf.Tensor, size: int) -> "Batch":
        """Rows `start` to `start + size`, fewer where they end before."""
        return Batch(*(tensor[start : start + size] for tensor in self))

    @classmethod
    def spec(cls, *, fields: int, numbers: int, tasks: int, outputs: int) -> "Batch":
        """The shapes and dtypes, for any B."""
        return cls(
            rows=tf.TensorSpec([None, fields], tf.int32),
            numbers=tf.TensorSpec([None, numbers], tf.float32),
            labels=tf.TensorSpec([None, tasks], tf.float32),
            weight=tf.TensorSpec([None], tf.float32),
            soft=tf.TensorSpec([None, outputs], tf.float32),
            mask=tf.TensorSpec([None], tf.float32),
        )


class Ranker(tfrs.Model):
    """Embeddings and numbers, their interactions, shared layers, a head per task.

    The loss is Σ over tasks of the hard loss, plus Σ over distillations of alpha · the soft loss.
    """

    def __init__(
        self,
        schema: Schema,
        config: ModelConfig,
        *,
        distillation: Sequence[Distillation] = (),
        offsets: Mapping[str, float] = MappingProxyType({}),
    ):
        """`offsets`: of binary tasks by name, added to their logits while they learn from hard labels."""
        super().__init__(name="ranker")
        self.config = config
        self.distillation = tuple(distillation)
        self.inputs = schema.inputs(config.without)
        self.schema = schema = schema.for_model(config.without)
        self.numbers = [f for f in self.inputs if not f.is_id]
        taken = {f.name for f in self.inputs}
        self.of = {history.name: history.of for history in schema.histories if history.name in taken}
        kind = GrowingIdMap if any(f.grows for f in self.inputs) else HashedIdMap
        self.id_map = kind(self.inputs, shared=self.of)
        self.embedded = self.id_map.features
        places = {feature.name: place for place, feature in enumerate(self.embedded)}
        self.objective = Objective(
            schema=schema,
            distillation=self.distillation,
            offsets=dict(offsets),
            user=places.get(schema.user or ""),
        )
        self.fields = sum(f.fields for f in self.embedded)
        self.embeddings = SharedTable(self.id_map.rows, config.embedding_dim)
        self.attention = {name: TargetAttention(config.embedding_dim) for name in self.of}
        width = len(self.embedded) * config.embedding_dim + len(self.numbers)
        self.cross = (
            tfrs.layers.feature_interaction.MultiLayerDCN(
                projection_dim=max(1, width // 4), num_layers=config.cross_layers
            )
            if config.cross_layers
            else None
        )
        self.dot = DotInteraction(config.embedding_dim) if config.dot_interaction else None
        layers = config.hidden[:-1] if config.experts else config.hidden
        self.shared = [tf.keras.layers.Dense(n, activation="relu", name=f"shared_{n}") for n in layers]
        self.gates = (
            MultiGate(experts=config.experts, units=config.hidden[-1], tasks=len(schema.tasks))
            if config.experts
            else None
        )
        self.heads = {
            task.name: tf.keras.layers.Dense(len(task.outputs), name=task.name) for task in schema.tasks
        }
        self._add_towers()
        # Make the variables now: a checkpoint can be read, and a graph traced, only with them there.
        self(tf.zeros([1, self.fields], tf.int32), tf.zeros([1, len(self.numbers)]))
        for name, adapter in self.adapters.items():
            adapter(tf.zeros([1, len(self._task(name).outputs)]))
        for name, d in self.taught.items():
            if d.hidden is None and not config.experts:
                self._start_as_served(self.auxiliary[name], d)

    def _add_towers(self) -> None:
        """The auxiliary towers, and adapters of labels. Raises UserError where one leaves after more shared layers
        than there are."""
        # Shared layers below each auxiliary tower. What the teacher teaches shapes them, and no layer above.
        self.levels = {
            d.task: len(self.shared) if d.shared_layers is None else d.shared_layers
            for d in self.distillation
            if d.through == "auxiliary"
        }
        for task, level in self.levels.items():
            if level > len(self.shared):
                raise UserError(
                    f"distillation of {task!r}: shared_layers is {level}, "
                    f"the model has {len(self.shared)} that its tasks share"
                )
        # By name: an adapter has a second tower of its task.
        self.taught = {
            name: d
            for d in self.distillation
            if d.through == "auxiliary"
            for name in ([d.task, f"{d.task}_adapted"] if d.adapter else [d.task])
        }
        self.auxiliary = {
            name: AuxiliaryTower(
                self.config.hidden[self.levels[d.task] :] if d.hidden is None else d.hidden,
                outputs=len(self._task(d.task).outputs),
                scale=d.gradient_scale,
                name=f"auxiliary_{name}",
            )
            for name, d in self.taught.items()
        }
        self.adapters = {
            d.task: AuxiliaryTower(
                (16,), outputs=len(self._task(d.task).outputs), scale=1.0, name=f"auxiliary_adapter_{d.task}"
            )
            for d in self.distillation
            if d.adapter
        }

    def _start_as_served(self, tower: AuxiliaryTower, d: Distillation) -> None:
        """Copy the served tower's initial weights into an auxiliary one of the same shape.

        Towers that start apart ask the layers below them for different things, and what the teacher teaches
        there the served tower cannot read: late students of KuaiRand lost by it (docs/design.md).
        """
        served = [*self.shared[self.levels[d.task] :], self.heads[d.task]]
        for layer, like in zip([*tower.tower, tower.head], served, strict=True):
            for variable, value in zip(layer.variables, like.variables, strict=True):
                variable.assign(value)

    def _task(self, name: str) -> Task:
        return self.schema.select_tasks([name])[0]

    def call(self, rows: tf.Tensor, numbers: tf.Tensor) -> Outputs:
        """Served raw outputs by name (`Schema.outputs`), each float32 [batch]."""
        return self._named(self.forward(rows, numbers)[0])

    def forward(self, rows: tf.Tensor, numbers: tf.Tensor) -> tuple[Outputs, Outputs]:
        """(served, auxiliary) raw outputs by tower, float32 [batch, outputs of its task] each."""
        x = self.embed(rows, numbers)
        return self._towers(x, self.shared[0](x))

    def call_list(
        self, user: tuple[tf.Tensor, tf.Tensor], candidates: tuple[tf.Tensor, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Served raw outputs [N] by task output name, of N candidates for one user.

        What hangs on the user alone is computed once: its embeddings, and its share of the first
        shared layer unless interactions come before that. A history hangs on the candidate, too.

        Args:
            user: (rows, numbers) of the user's features, batch 1.
            candidates: (rows, numbers) of the candidates' features, batch N.
        """
        given = {"user": user, "candidate": candidates}
        blocks = self._blocks(
            *(([f for f in self.embedded if f.scope == scope], rows) for scope, (rows, _) in given.items())
        )
        parts = {
            scope: tf.concat([x for fs, x in blocks if self._scope(fs[0]) == scope] + [numbers], axis=1)
            for scope, (_, numbers) in given.items()
        }
        first = self.shared[0]
        if self.cross or self.dot:
            count = tf.shape(parts["candidate"])[0]
            x = tf.concat([tf.repeat(parts["user"], count, axis=0), parts["candidate"]], axis=1)
            places = self._places("user") + self._places("candidate")
            x = tf.gather(x, sorted(range(len(places)), key=places.__getitem__), axis=1)
            x = self._interact(x)
            return self._named(self._towers(x, first(x))[0])
        shares = {
            scope: tf.matmul(x, tf.gather(first.kernel, self._places(scope))) for scope, x in parts.items()
        }
        # As a bias, the user's share is added by the same op that multiplies the candidates' part.
        bias = tf.reshape(shares["user"] + first.bias, [-1])
        out = first.activation(tf.nn.bias_add(shares["candidate"], bias))
        return self._named(self._towers(None, out)[0])

    def _towers(self, x: tf.Tensor | None, first: tf.Tensor) -> tuple[Outputs, Outputs]:
        """(served, auxiliary) as `forward`, from the first shared layer's input and output [batch, units].

        Without the input (None) there is no auxiliary output.
        """
        levels = [x, first]
        for layer in self.shared[1:]:
            levels.append(layer(levels[-1]))
        tops = self.gates(levels[-1]) if self.gates else [levels[-1]] * len(self.heads)
        served = {
            task.name: kind_of(task).parameters(self.heads[task.name](top))
            for task, top in zip(self.schema.tasks, tops, strict=True)
        }
        if x is None:
            return served, {}
        # Built last, so that the layers before draw the same initial weights with and without towers.
        auxiliary = {
            name: kind_of(self._task(d.task)).parameters(self.auxiliary[name](levels[self.levels[d.task]]))
            for name, d in self.taught.items()
        }
        return served, auxiliary

    def _named(self, served: Outputs) -> Outputs:
        """A vector [batch] by raw output's name, from a matrix by task."""
        return {
            name: served[task.name][:, i] for task in self.schema.tasks for i, name in enumerate(task.outputs)
        }

    def embed(self, rows: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """float32 [batch, width]: what the shared layers see."""
        return self._interact(self._join(rows, numbers))

    def _interact(self, x: tf.Tensor) -> tf.Tensor:
        if self.dot:
            ids = len(self.embedded) * self.config.embedding_dim
            return self.dot(x[:, :ids], x[:, ids:])
        return self.cross(x) if self.cross else x

    def _join(self, rows: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """Embeddings, then numbers, side by side."""
        blocks = self._blocks((self.embedded, rows))
        return tf.concat([x for _, x in blocks] + ([numbers] if numbers.shape[1] else []), axis=1)

    def _blocks(self, *groups: tuple[Sequence[Feature], tf.Tensor]) -> list[Block]:
        """All single values of each group of features, by their rows [batch, slots], then each list's own vector.

        A history is weighed by the embeddings of what it is of; a group of batch 1 is everyone's.
        """
        dim = self.config.embedding_dim
        blocks: list[Block] = []
        lists: list[tuple[Feature, tf.Tensor, tf.Tensor]] = []
        single: dict[str, tf.Tensor] = {}
        for features, rows in groups:
            if not features:
                continue
            alone = [f for f in features if not f.length]
            sizes = [len(alone), *(f.length for f in features if f.length)]
            if len(sizes) == 1:
                blocks.append((alone, self.embeddings(rows)))
                continue
            # What stands for no item is looked up too, and weighs nothing.
            values = tf.split(self.embeddings(tf.maximum(rows, 0)), [n * dim for n in sizes], axis=1)
            masks = tf.split(tf.cast(rows >= 0, tf.float32), sizes, axis=1)
            if alone:
                blocks.append((alone, values[0]))
            lists += zip((f for f in features if f.length), values[1:], masks[1:], strict=True)
        for features, x in blocks:
            for i, f in enumerate(features):
                if f.name in self.of.values():
                    single[f.name] = x[:, i * dim : (i + 1) * dim]
        for f, flat, mask in sorted(lists, key=lambda each: self.embedded.index(each[0])):
            items = tf.reshape(flat, [-1, f.length, dim])
            if f.name in self.of:
                pooled = self.attention[f.name](items, single[self.of[f.name]], mask)
            else:
                pooled = masked_mean(items, mask)
            blocks.append(([f], pooled))
        return blocks

    def _scope(self, feature: Feature) -> str:
        """On whom its vector hangs: a history's on what it is weighed by."""
        of = self.of.get(feature.name, feature.name)
        return next(f.scope for f in self.inputs if f.name == of)

    def _places(self, scope: str) -> list[int]:
        """Where the features of a scope stand in all features joined."""
        dim, ids = self.config.embedding_dim, self.embedded
        places = [i * dim + k for i, f in enumerate(ids) if self._scope(f) == scope for k in range(dim)]
        numbers = enumerate(self.numbers, start=len(ids) * dim)
        return places + [place for place, f in numbers if f.scope == scope]

    @property
    def signature(self) -> dict[str, tf.TensorSpec]:
        """What `transform` takes: a raw tensor [batch] per feature, by name, or of a list [batch, length]."""
        return {
            f.name: tf.TensorSpec([None, *f.shape], tf.as_dtype(f.dtype), name=f.name) for f in self.inputs
        }

    def transform(
        self, columns: Mapping[str, tf.Tensor], entries: Entries | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(rows, numbers) as in `Batch` of the model's inputs that `columns` has, raw as `signature` says.

        A number that is NaN or infinite counts as missing, one beyond ±1e6 as ±1e6 unless it is log-scaled:
        in training as in serving.
        `entries`: of the ids of growing features; None: those that the model has.
        """
        given = [f for f in self.numbers if f.name in columns]
        columns = {**columns, **{f.name: finite(f, columns[f.name]) for f in given}}
        rows = self.id_map.lookup(columns, entries)
        numbers = [
            tf.math.log1p(tf.maximum(columns[f.name], 0.0)) if f.log1p else columns[f.name] for f in given
        ]
        return rows, tf.stack(numbers, axis=1) if numbers else tf.zeros([tf.shape(rows)[0], 0])

    def compute_loss(self, batch: Batch, training: bool = False) -> tf.Tensor:
        return self.losses_and_outputs(batch)[0]

    def losses_and_outputs(self, batch: Batch) -> tuple[tf.Tensor, Outputs]:
        """The scalar loss of a batch, and the served raw outputs that it was computed from."""
        served, auxiliary = self.forward(batch.rows, batch.numbers)
        return self.objective.loss(batch, served, auxiliary, self.adapters), self._named(served)

    @property
    def served_variables(self) -> list[tf.Variable]:
        """Everything that the served outputs are computed from: no auxiliary tower."""
        layers = [self.embeddings, *self.attention.values(), *self.shared, *self.heads.values()]
        layers += [self.cross, self.dot, self.gates]
        served = [v for layer in layers if layer is not None for v in layer.variables]
        return [*served, *self.id_map.variables]
