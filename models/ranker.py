"""The ranking model: teacher and students are this one class, with other backbones and sizes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from tutelage.models import network, towers
from tutelage.models.backbones.attention import repeated
from tutelage.models.backbones.base import Inputs
from tutelage.models.batch import Batch as Batch
from tutelage.models.config import Distillation, ModelConfig
from tutelage.models.id_map import Entries
from tutelage.models.inputs import Embedder
from tutelage.models.objective import Objective
from tutelage.models.task_kinds import kind_of
from tutelage.models.tfrs import Model
from tutelage.pipeline.schema import Schema, Task

Outputs = dict[str, tf.Tensor]


class Ranker(Model):
    """Embeddings, a backbone, a head per task; and while a student is trained, its auxiliary towers.

    The loss is Σ over tasks of the hard loss, plus Σ over distillations of alpha · the soft loss.

    >>> from tutelage.models.backbones.mlp import MLP
    >>> from tutelage.pipeline.schema import Feature
    >>> schema = Schema(
    ...     features=(Feature(name="user", dtype="int64", capacity=100),),
    ...     tasks=(Task(name="click", label="click"),),
    ...     key=("user",),
    ... )
    >>> ranker = Ranker(schema, ModelConfig(embedding_dim=8, backbone=MLP(hidden=(16,))))
    >>> scores = ranker(*ranker.transform({"user": tf.constant([3, 4], tf.int64)}))
    >>> {name: values.shape for name, values in scores.items()}
    {'click_logit': TensorShape([2])}
    """

    def __init__(
        self,
        schema: Schema,
        config: ModelConfig,
        *,
        distillation: Sequence[Distillation] = (),
        offsets: Mapping[str, float] = MappingProxyType({}),
    ):
        """`offsets` are added to the logits of binary tasks, by name, while they are trained on hard labels.

        Raises UserError for a backbone or a distillation that does not fit the schema.
        """
        super().__init__(name="ranker")
        self.config, self.distillation = config, tuple(distillation)
        self.schema = schema.for_model(config.without)
        self.embedder = Embedder(schema, config)
        embedder = self.embedder
        self.inputs, self.numbers, self.of = embedder.features, embedder.numbers, embedder.of
        self.requested = tuple(feature for feature in self.inputs if feature.serve_as is None)
        self.id_map, self.embedded, self.fields = embedder.id_map, embedder.embedded, embedder.fields
        places = {feature.name: place for place, feature in enumerate(self.embedded)}
        self.objective = Objective(
            schema=self.schema,
            distillation=self.distillation,
            offsets=dict(offsets),
            user=places.get(schema.user or ""),
        )
        # The order of what follows is the order in which initial weights are drawn and in which Adam counts them.
        self.embeddings = self.embedder.table
        self.backbone = network.build(config.backbone, self.embedder.spec)
        self.heads = {
            task.name: tf.keras.layers.Dense(len(task.outputs), name=task.name) for task in self.schema.tasks
        }
        self.taught: dict[str, Distillation] = {}
        # Make the variables now: a checkpoint can be read, and a graph traced, only with them there.
        nothing = tf.zeros([1, self.fields], tf.int32), tf.zeros([1, len(self.numbers)])
        if network.is_foreign(self.backbone):
            self.backbone(self.embedder.embed(*nothing))
            network.check(config.backbone, self.backbone, self.embedder.spec)
        self(*nothing)
        # Towers come last, so that the layers before them draw the same initial weights with and without.
        self._add_towers(*nothing)

    def _add_towers(self, rows: tf.Tensor, numbers: tf.Tensor) -> None:
        levels = len(self._levels(self.embedder.embed(rows, numbers))[0])
        taught = towers.with_towers(self.distillation)
        self.levels = {d.task: towers.branch_level(d, levels) for d in taught.values()}
        self.auxiliary = {
            name: towers.auxiliary_tower(
                name, d, outputs=len(self._task(d.task).outputs), backbone=self.backbone, levels=levels
            )
            for name, d in taught.items()
        }
        self.adapters = towers.adapters(self.schema, self.distillation)
        plain = not hasattr(self.backbone, "with_levels")
        self.tower_inputs = self.embedder.spec.join() if plain and 0 in self.levels.values() else None
        self.taught = taught
        self.forward(rows, numbers)
        for name, adapter in self.adapters.items():
            adapter(tf.zeros([1, len(self._task(name).outputs)]))
        for name, d in taught.items():
            towers.start_as_served(
                self.auxiliary[name], d, backbone=self.backbone, levels=levels, head=self.heads[d.task]
            )

    def _task(self, name: str) -> Task:
        return self.schema.select_tasks([name])[0]

    def call(self, rows: tf.Tensor, numbers: tf.Tensor) -> Outputs:
        """Return the served raw outputs by name (`Schema.outputs`), each float32 [batch]."""
        return self._named(self._served(self._levels(self.embedder.embed(rows, numbers))[1]))

    def forward(self, rows: tf.Tensor, numbers: tf.Tensor) -> tuple[Outputs, Outputs]:
        """Return (served, auxiliary) raw outputs by tower, float32 [batch, outputs of its task] each."""
        inputs = self.embedder.embed(rows, numbers)
        levels, tops = self._levels(inputs)
        served = self._served(tops)
        auxiliary = {}
        for name, d in self.taught.items():
            level = levels[self.levels[d.task]]
            if level is None:  # A plain layer's two levels.
                top = tops[list(self.heads).index(d.task)]
                level = self.tower_inputs(inputs) if self.tower_inputs and self.levels[d.task] == 0 else top
            auxiliary[name] = kind_of(self._task(d.task)).parameters(self.auxiliary[name](level))
        return served, auxiliary

    def call_list(
        self, user: tuple[tf.Tensor, tf.Tensor], candidates: tuple[tf.Tensor, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Return the served raw outputs [N] by name, of N candidates for one user.

        The user's embeddings are looked up once. What else is computed once is the backbone's affair (`call_list` of
        its layer).

        Args:
            user: (rows, numbers) of the user's features, batch 1.
            candidates: (rows, numbers) of the candidates' features, batch N.
        """
        of_user = self.embedder.embed(*user, "user")
        others = self.embedder.embed(*candidates, "candidate")
        if hasattr(self.backbone, "call_list"):
            top = self.backbone.call_list(of_user, others)
        else:
            top = self.backbone(repeated(self.embedder.spec, of_user, others))
        return self._named(self._served(self._per_task(top)))

    def _levels(self, inputs: Inputs) -> tuple[list[Any], list[tf.Tensor]]:
        """The levels at which a tower may branch (None: a plain layer's), and each task's representation."""
        if hasattr(self.backbone, "with_levels"):
            levels, top = self.backbone.with_levels(inputs)
        else:
            levels, top = [None, None], self.backbone(inputs)
        return levels, self._per_task(top)

    def _per_task(self, top: Any) -> list[tf.Tensor]:
        return list(top) if isinstance(top, list | tuple) else [top] * len(self.heads)

    def _served(self, tops: Sequence[tf.Tensor]) -> Outputs:
        return {
            task.name: kind_of(task).parameters(self.heads[task.name](top))
            for task, top in zip(self.schema.tasks, tops, strict=True)
        }

    def _named(self, served: Outputs) -> Outputs:
        """A vector [batch] by raw output's name, from a matrix by task."""
        return {
            name: served[task.name][:, i] for task in self.schema.tasks for i, name in enumerate(task.outputs)
        }

    @property
    def signature(self) -> dict[str, tf.TensorSpec]:
        """What `transform` takes (`Embedder.signature`)."""
        return self.embedder.signature

    def transform(
        self, columns: Mapping[str, tf.Tensor], entries: Entries | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (rows, numbers) of raw columns (`Embedder.transform`)."""
        return self.embedder.transform(columns, entries)

    @property
    def served_variables(self) -> list[tf.Variable]:
        """Everything that the served outputs are computed from: no auxiliary tower."""
        layers = [self.embeddings, self.backbone, *self.heads.values()]
        return [*(v for layer in layers for v in layer.variables), *self.id_map.variables]

    @property
    def network(self) -> dict[str, list[int]]:
        """The shapes of a user's network by the variables' paths; empty for the networks of this package."""
        if not network.is_foreign(self.backbone):
            return {}
        return {path: v.shape.as_list() for path, v in network.by_path(self.backbone).items()}

    @property
    def checkpoint_view(self) -> tf.train.Checkpoint:
        """The variables as a checkpoint names them: every kind of network that this package ever had has its own edges.

        A checkpoint is read along the names of these edges, so they stay. A user's network is one edge, `backbone`.
        """
        edges = {"embeddings": self.embeddings, "heads": self.heads, "id_map": self.id_map}
        edges |= {"auxiliary": self.auxiliary, "adapters": self.adapters, "tower_inputs": self.tower_inputs}
        edges |= network.edges(self.backbone)
        return tf.train.Checkpoint(**{name: edge for name, edge in edges.items() if edge is not None})

    def compute_loss(self, batch: Batch, training: bool = False) -> tf.Tensor:
        return self.losses_and_outputs(batch)[0]

    def losses_and_outputs(self, batch: Batch) -> tuple[tf.Tensor, Outputs]:
        """The scalar loss of a batch, and the served raw outputs that it was computed from."""
        served, auxiliary = self.forward(batch.rows, batch.numbers)
        return self.objective.loss(batch, served, auxiliary, self.adapters), self._named(served)
