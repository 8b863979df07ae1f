"""The signatures of a served model, all of one graph's scores: by column, by example, by list, by id.

Where a feature is left out, its declared default is taken: TensorFlow Serving and a session fill it in
(the signature declares it), and so does a call of the loaded model's own function, as in
`tf.saved_model.load(path).serving_default(user_id=...)`. Python's `signatures["serving_default"]` wants
every feature: TensorFlow does not read the defaults there.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from tutelage.export.config import ServingConfig
from tutelage.models.ranker import Ranker
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.schema import Feature, Task

Columns = Mapping[str, tf.Tensor]
Scores = dict[str, tf.Tensor]


def teacher_signatures(ranker: Ranker) -> dict[str, Any]:
    """`serving_default`: every task's raw output by its name, what the labeler reads."""

    def serving_default(**columns: tf.Tensor) -> Scores:
        return ranker(*ranker.transform(_complete(ranker.inputs, columns)))

    return {"serving_default": by_column(serving_default, ranker.inputs)}


def student_signatures(ranker: Ranker, serving: ServingConfig) -> dict[str, Any]:
    """TensorFlow functions by signature; each gives float32 [batch] by served output, and `score`.

    A binary task's output is a probability, a `ziln` task's the expected value in its label's unit, a `log1p`
    task's is the raw one, and `score` is Σ weight · output.

    - `serving_default`: a raw tensor [batch] per feature; one of length 1 stands for all rows.
    - `serve_examples`: `examples`, serialised tf.Example, string [batch]; of a list that is longer than the
      feature's, the first items are read.
    - `score_list`: of one user, features of length 1, with N candidates, features [N]; there only
      where the model has features of both scopes.
    - `serve_ids`: an int64 [batch] per id feature, a string given as its fingerprint
      (`models.id_map.fingerprint`), and a float32 [batch] per number, none left out: of ops that
      small runtimes have too.

    A list or a history is a tensor [batch, length], filled up with its default after the last item.

    NaN or an infinite number counts as missing, one beyond ±1e6 as ±1e6 unless it is log-scaled.
    TensorFlow's error names a feature that does not fit: of another rank, of a length that is neither 1
    nor the others', unknown, or left out where it must not be. It names one of another dtype, too, but
    for Python's `signatures[...]`, which tells its place among the names in alphabetical order.
    """
    schema, features = ranker.schema, ranker.inputs

    def scores(raw: Scores) -> Scores:
        by_name = {task.score: _served(task, raw) for task in schema.tasks}
        return {**by_name, "score": tf.add_n([weight * by_name[name] for name, weight in serving.score])}

    def serving_default(**columns: tf.Tensor) -> Scores:
        return scores(ranker(*ranker.transform(_complete(features, columns))))

    def serve_examples(examples: tf.Tensor) -> Scores:
        parsed = tf.io.parse_example(examples, {f.name: _parser(f) for f in features})
        for f in features:
            if f.length:
                parsed[f.name] = parsed[f.name].to_tensor(f.default, shape=[None, f.length])
        return scores(ranker(*ranker.transform(parsed)))

    def score_list(**columns: tf.Tensor) -> Scores:
        user = {
            f.name: tf.ensure_shape(columns[f.name], [1, *f.shape], name=f.name) for f in by_scope["user"]
        }
        candidates = _complete(by_scope["candidate"], columns)
        return scores(ranker.call_list(ranker.transform(user), ranker.transform(candidates)))

    def serve_ids(**columns: tf.Tensor) -> Scores:
        return scores(ranker(*ranker.transform(_complete(features, columns))))

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
    """A raw tensor [batch] per feature, by name; one left out is its default."""
    specs = {f.name: tf.TensorSpec([None, *f.shape], tf.as_dtype(f.dtype), f.name) for f in features}
    defaults = {f.name: tf.fill([1, *f.shape], tf.constant(f.default, f.dtype)) for f in features}
    return _function(function, specs, defaults)


def _parser(feature: Feature) -> Any:
    dtype = tf.as_dtype(feature.dtype)
    return tf.io.RaggedFeature(dtype) if feature.length else tf.io.FixedLenFeature([], dtype, feature.default)


def _function(function: Callable[..., Scores], specs: Mapping[str, tf.TensorSpec], defaults: Columns) -> Any:
    """A TensorFlow function whose parameters are called as `specs` says: TensorFlow saves their defaults."""

    def by_name(*values: tf.Tensor) -> Scores:
        return function(**dict(zip(specs, values, strict=True)))

    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    by_name.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, default=defaults.get(name, empty)) for name in specs]
    )
    by_name.__name__ = function.__name__
    return tf.function(by_name, input_signature=list(specs.values()), autograph=False)


def _complete(features: Iterable[Feature], columns: Columns) -> Columns:
    """The columns of `features` at one length, those of length 1 repeated."""
    # Sessions check no shape. An op that fails is told by its name, here the feature's.
    given = {f.name: tf.ensure_shape(columns[f.name], [None, *f.shape], name=f.name) for f in features}
    sizes = tf.stack([tf.shape(values)[0] for values in given.values()])
    batch = tf.reduce_max(sizes) * tf.sign(tf.reduce_min(sizes))
    return {
        f.name: tf.broadcast_to(given[f.name], [batch, *f.shape], name=f"{f.name}/repeated") for f in features
    }


def _served(task: Task, raw: Scores) -> tf.Tensor:
    """Return the served score, float32 [batch], from the task's raw outputs [batch] by name."""
    return kind_of(task).served(tf.stack([raw[name] for name in task.outputs], axis=1))
