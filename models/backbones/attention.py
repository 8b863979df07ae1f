"""How lists and histories become vectors: a mean, or target attention; and all inputs joined into one tensor."""

import math

import tensorflow as tf

from tutelage.models.backbones.base import Inputs, InputSpec

CANDIDATE, USER = "candidate", "user"


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return the mean of each bag's items, float32 [batch, dim], zeros for an empty bag.

    Args:
        values: float32 [batch, items, dim], finite where there is no item too.
        mask: float32 [batch, items], 1 where there is an item, else 0.

    >>> masked_mean(tf.constant([[[1.0], [5.0], [9.0]]]), tf.constant([[1.0, 1.0, 0.0]])).numpy()
    array([[3.]], dtype=float32)
    """
    count = tf.maximum(tf.reduce_sum(mask, axis=1, keepdims=True), 1.0)
    return tf.linalg.matvec(values, mask, transpose_a=True) / count


class TargetAttention(tf.keras.layers.Layer):
    """A user's history from the candidate's point of view: items like the candidate weigh more (DIN, arXiv 1706.06978).

    Weights are a softmax over the items that are there, of (W · candidate) · item / √dim. DIN scores the pairs by an
    MLP and does not normalise the weights, which takes four to seven times as long.
    """

    def __init__(self, dim: int):
        super().__init__(name="target_attention")
        self.dim = dim
        self.query = tf.keras.layers.Dense(dim, use_bias=False, name="query")

    def call(self, history: tf.Tensor, candidate: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Return the pooled histories, float32 [batch, dim], zeros for an empty one.

        Args:
            history: float32 [batch, items, dim], finite where there is no item too. A history of batch 1 is
                shared by all candidates.
            candidate: float32 [batch, dim].
            mask: float32 [batch, items], 1 where there is an item, else 0.
        """
        scores = tf.linalg.matvec(history, self.query(candidate)) / math.sqrt(self.dim)
        # An empty history's scores are all equally low, and its softmax is uniform: hence the second mask.
        weights = tf.nn.softmax(scores + 1e9 * (mask - 1.0)) * mask
        return tf.linalg.matvec(history, weights, transpose_a=True)


class Join(tf.keras.layers.Layer):
    """All inputs side by side: single embeddings, a vector per list and history, then the numbers.

    >>> spec = InputSpec(dim=2, single=("item",), lists={"tags": 3}, numbers=("age",))
    >>> inputs = Inputs(
    ...     embeddings={"item": tf.constant([[1.0, 2.0]])},
    ...     items={"tags": tf.constant([[[3.0, 0.0], [5.0, 0.0], [0.0, 0.0]]])},
    ...     masks={"tags": tf.constant([[1.0, 1.0, 0.0]])},
    ...     numbers=tf.constant([[7.0]]),
    ... )
    >>> spec.join()(inputs).numpy()
    array([[1., 2., 4., 0., 7.]], dtype=float32)
    """

    def __init__(self, spec: InputSpec):
        super().__init__(name="join")
        self.spec = spec
        self.attention = {name: TargetAttention(spec.dim) for name in spec.histories}

    def call(self, inputs: Inputs) -> tf.Tensor:
        """Return float32 [batch, `InputSpec.width`]."""
        numbers = [inputs.numbers] if self.spec.numbers else []
        return tf.concat([*self._vectors(inputs).values(), *numbers], axis=1)

    def by_scope(self, user: Inputs, candidates: Inputs) -> dict[str, tf.Tensor]:
        """Return what depends on the user alone, [1, its columns], and what depends on the candidate, [N, its columns].

        A history depends on the candidate whose attention pools it, although its items are the user's.
        """
        parts: dict[str, list[tf.Tensor]] = {USER: [], CANDIDATE: []}
        for name, vector in self._vectors(mixed(user, candidates)).items():
            parts[self._scope(name)].append(vector)
        parts[USER].append(user.numbers)
        parts[CANDIDATE].append(candidates.numbers)
        return {scope: tf.concat(tensors, axis=1) for scope, tensors in parts.items()}

    def call_list(self, user: Inputs, candidates: Inputs) -> tf.Tensor:
        """Return float32 [N, width] of N candidates for one user. A history's items are not repeated."""
        parts = self.by_scope(user, candidates)
        count = tf.shape(parts[CANDIDATE])[0]
        x = tf.concat([tf.repeat(parts[USER], count, axis=0), parts[CANDIDATE]], axis=1)
        places = self.places(USER) + self.places(CANDIDATE)
        return tf.gather(x, sorted(range(len(places)), key=places.__getitem__), axis=1)

    def places(self, scope: str) -> list[int]:
        """Return the columns of the joined tensor that belong to a scope."""
        dim, names = self.spec.dim, [*self.spec.single, *self.spec.lists]
        columns = [
            i * dim + k for i, name in enumerate(names) if self._scope(name) == scope for k in range(dim)
        ]
        numbers = enumerate(self.spec.numbers, start=len(names) * dim)
        return columns + [column for column, name in numbers if self._scope(name) == scope]

    def _scope(self, name: str) -> str:
        return USER if self.spec.histories.get(name, name) in self.spec.of_user else CANDIDATE

    def _vectors(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        """float32 [batch, dim] by feature, in the order of the joined tensor."""
        vectors = {name: inputs.embeddings[name] for name in self.spec.single}
        for name in self.spec.lists:
            items, mask = inputs.items[name], inputs.masks[name]
            if name in self.spec.histories:
                candidate = inputs.embeddings[self.spec.histories[name]]
                vectors[name] = self.attention[name](items, candidate, mask)
            else:
                vectors[name] = masked_mean(items, mask)
        return vectors


def mixed(user: Inputs, candidates: Inputs) -> Inputs:
    """Put one user's inputs (batch 1) beside N candidates' (batch N), with the numbers of the candidates alone."""
    return Inputs(
        embeddings={**user.embeddings, **candidates.embeddings},
        items={**user.items, **candidates.items},
        masks={**user.masks, **candidates.masks},
        numbers=candidates.numbers,
    )


def repeated(spec: InputSpec, user: Inputs, candidates: Inputs) -> Inputs:
    """Return the inputs of N candidates, batch N, with the one user's (batch 1) repeated for each."""
    user_numbers = [name for name in spec.numbers if name in spec.of_user]
    others = [name for name in spec.numbers if name not in spec.of_user]
    both = mixed(user, candidates)
    count = tf.shape(tf.nest.flatten(candidates)[0])[0]

    def fit(values: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(values, tf.concat([[count], tf.shape(values)[1:]], axis=0))

    numbers = tf.concat([fit(user.numbers), candidates.numbers], axis=1)
    order = [*user_numbers, *others]
    return Inputs(
        embeddings={name: fit(x) for name, x in both.embeddings.items()},
        items={name: fit(x) for name, x in both.items.items()},
        masks={name: fit(x) for name, x in both.masks.items()},
        numbers=tf.gather(numbers, [order.index(name) for name in spec.numbers], axis=1),
    )
