"""The signatures of a served model: the same scores by column, by example, by list or by id.

A feature that is left out of `serving_default` or `score_list` takes its declared default in three cases:

- TensorFlow Serving fills it in, because the signature declares the default.
- A `tf.compat.v1` session fills it in for the same reason.
- A call of the loaded model's own function fills it in: `model = tf.saved_model.load(path)`, then
  `model.serving_default(user_id=...)`.

`model.signatures["serving_default"](...)` in Python needs every feature and raises TypeError, "missing a required
argument". TensorFlow's loader makes it a concrete function and ignores the defaults that the file declares, so the
exporter cannot change that.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from tutelage.export.config import ServingConfig
from tutelage.models.id_map import fingerprint
from tutelage.models.ranker import Ranker
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.schema import Feature, Task

Columns = Mapping[str, tf.Tensor]
Scores = dict[str, tf.Tensor]


def teacher_signatures(ranker: Ranker) -> dict[str, Any]:
    """Return the teacher's only signature, `serving_default`: every task's raw outputs by name, for the labeler."""

    def serving_default(**columns: tf.Tensor) -> Scores:
        return ranker(*ranker.transform(_complete(ranker.inputs, columns)))

    return {"serving_default": by_column(serving_default, ranker.inputs)}


class _Scorer:
    """Scores the rows of requests, which lack the features that have `serve_as`."""

    def __init__(self, ranker: Ranker, serving: ServingConfig):
        self._ranker, self._serving = ranker, serving
        self._constants = {f: _constant(f) for f in ranker.inputs if f.serve_as is not None}

    def transform(self, columns: Columns, scope: str = "") -> tuple[tf.Tensor, tf.Tensor]:
        """Return the network's inputs: the columns and, at their length, those of the features that no request has.

        With `scope` only the features of this one.
        """
        rows = tf.shape(next(iter(columns.values())))[:1]
        constants = self._constants.items()
        absent = {f.name: tf.fill(rows, x) for f, x in constants if not scope or f.scope == scope}
        return self._ranker.transform({**columns, **absent})

    def rows(self, columns: Columns) -> Scores:
        """Return the served outputs of rows that have all features of a request."""
        return self.served(self._ranker(*self.transform(columns)))

    def served(self, raw: Scores) -> Scores:
        """Return the served outputs and their weighted sum, from the network's."""
        by_name = {task.score: _served(task, raw) for task in self._ranker.schema.tasks}
        weighted = [weight * by_name[name] for name, weight in self._serving.score]
        return {**by_name, "score": tf.add_n(weighted)}


def student_signatures(ranker: Ranker, serving: ServingConfig) -> dict[str, Any]:
    """Return a student's signatures, TensorFlow functions by name.

    Each returns float32 [batch] by served output, and `score` = Σ weight · output. The output of a binary task
    is a probability, that of a `ziln` task the expected value in the label's unit, and that of a `log1p` task the
    raw output.

    - `serving_default` takes a raw tensor [batch] per feature. A tensor of length 1 is repeated for all rows.
    - `serve_examples` takes `examples`, serialised tf.Examples, string [batch]. Of a list that is longer than the
      feature's length, the first items are read.
    - `score_list` takes the features of one user, each of length 1, and of N candidates, each [N]. It exists only
      if the model has features of both scopes.
    - `serve_ids` takes an int64 [batch] per id feature, where a string is given as its fingerprint
      (`models.id_map.fingerprint`), and a float32 [batch] per number. No feature may be left out. It consists of
      ops that small runtimes have.

    A list or a history is a tensor [batch, length], padded with its default after the last item.

    No signature takes a feature that has `serve_as`: its value is that one in every row.

    NaN, infinite numbers and those beyond ±1e6 (±1e20 if they are log-scaled) count as missing.
    TensorFlow's error names a feature that is unknown, is left out where it must not be, or has another rank or a
    length that is neither 1 nor that of the others. It also names a feature of another dtype, except in Python's
    `signatures[...]`, where it says the feature's place in the alphabetical order of the names.
    """
    features, scorer = ranker.requested, _Scorer(ranker, serving)

    def serving_default(**columns: tf.Tensor) -> Scores:
        return scorer.rows(_complete(features, columns))

    def serve_examples(examples: tf.Tensor) -> Scores:
        parsed = tf.io.parse_example(examples, {f.name: _parser(f) for f in features})
        for f in features:
            if f.length:
                parsed[f.name] = parsed[f.name].to_tensor(f.default, shape=[None, f.length])
        return scorer.rows(parsed)

    def score_list(**columns: tf.Tensor) -> Scores:
        user = {
            f.name: tf.ensure_shape(columns[f.name], [1, *f.shape], name=f.name) for f in by_scope["user"]
        }
        candidates = _complete(by_scope["candidate"], columns)
        parts = scorer.transform(user, "user"), scorer.transform(candidates, "candidate")
        return scorer.served(ranker.call_list(*parts))

    def serve_ids(**columns: tf.Tensor) -> Scores:
        return scorer.rows(_complete(features, columns))

    by_scope = {scope: [f for f in features if f.scope == scope] for scope in ("user", "candidate")}
    ids = {
        f.name: tf.TensorSpec([None, *f.shape], tf.int64 if f.is_id else tf.float32, f.name) for f in features
    }
    signatures = {
        "serving_default": by_column(serving_default, features),
        "serve_examples": tf.function(
            serve_examples,
            input_signature=[tf.TensorSpec([None], tf.string, "examples")],
            autograph=False,
        ),
        "serve_ids": _function(serve_ids, ids, {}),
    }
    if all(by_scope.values()):
        signatures["score_list"] = by_column(score_list, features)
    return signatures


def by_column(function: Callable[..., Scores], features: Iterable[Feature]) -> Any:
    """Return `function` as a TensorFlow function of a raw tensor [batch] per feature, with defaults."""
    specs = {f.name: tf.TensorSpec([None, *f.shape], tf.as_dtype(f.dtype), f.name) for f in features}
    defaults = {f.name: tf.fill([1, *f.shape], tf.constant(f.default, f.dtype)) for f in features}
    return _function(function, specs, defaults)


def _constant(feature: Feature) -> Any:
    """Return `serve_as`, an id as int64: small runtimes have no strings."""
    value = tf.constant([feature.serve_as], tf.as_dtype(feature.dtype))
    return (fingerprint(value) if feature.dtype == "string" else value).numpy()[0]


def _parser(feature: Feature) -> Any:
    dtype = tf.as_dtype(feature.dtype)
    return tf.io.RaggedFeature(dtype) if feature.length else tf.io.FixedLenFeature([], dtype, feature.default)


def _function(function: Callable[..., Scores], specs: Mapping[str, tf.TensorSpec], defaults: Columns) -> Any:
    """Return a TensorFlow function whose parameters have the names and defaults given, so that both are saved."""

    def by_name(*values: tf.Tensor) -> Scores:
        return function(**dict(zip(specs, values, strict=True)))

    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    by_name.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, default=defaults.get(name, empty)) for name in specs]
    )
    by_name.__name__ = function.__name__
    return tf.function(by_name, input_signature=list(specs.values()), autograph=False)


def _complete(features: Iterable[Feature], columns: Columns) -> Columns:
    """Return the columns of `features` at one length; those of length 1 are repeated."""
    # A session checks no shapes. Its error names the op that failed, so ops are named after features.
    given = {f.name: tf.ensure_shape(columns[f.name], [None, *f.shape], name=f.name) for f in features}
    sizes = tf.stack([tf.shape(values)[0] for values in given.values()])
    batch = tf.reduce_max(sizes) * tf.sign(tf.reduce_min(sizes))
    return {
        f.name: tf.broadcast_to(given[f.name], [batch, *f.shape], name=f"{f.name}/repeated") for f in features
    }


def _served(task: Task, raw: Scores) -> tf.Tensor:
    """Return the served score, float32 [batch], from the task's raw outputs [batch] by name."""
    return kind_of(task).served(tf.stack([raw[name] for name in task.outputs], axis=1))
