"""Measure the latency of served models at 1, 100 and 1,000 candidates of one user, side by side in this process.

The weights are untrained, because the time does not depend on them. `student + towers` is the student with its
auxiliary towers left in; `student, list` takes the user's features once (`score_list`); `LiteRT` runs `serve_ids` in
another runtime, ai-edge-litert, with as many threads as TensorFlow.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from tutelage.launch.config import load
from tutelage.launch.experiment import Experiment
from tutelage.launch.logging_setup import import_tensorflow, quiet_stderr, silence
from tutelage.launch.report.summary import print_table, simple_table
from tutelage.pipeline.schema import Schema

_CONFIG = flags.DEFINE_string("config", "kuairand", "The config of the teacher and the students.")
_STUDENT = flags.DEFINE_string("student", "auxiliary", "A student of the config that has auxiliary towers.")
_CALLS = flags.DEFINE_integer("calls", 300, "Calls of each model for each number of candidates.")
_CANDIDATES = (1, 100, 1000)

Call = Callable[[], Any]


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    silence(verbose=False)
    import_tensorflow(verbose=False)
    from rich.console import Console

    table = simple_table("model", *(f"{what}, {n:,}" for n in _CANDIDATES for what in ("p50 ms", "p99 ms")))
    with tempfile.TemporaryDirectory() as folder, quiet_stderr(verbose=False):
        calls = _calls(load(_CONFIG.value), Path(folder))
        times = {n: _times({name: call(n) for name, call in calls.items()}) for n in _CANDIDATES}
    for name in calls:
        cells = [f"{1000 * q:.3f}" for n in _CANDIDATES for q in times[n][name]]
        table.add_row(name, *cells)
    console = Console(file=sys.stdout)
    print_table(console, table)
    most = {name: p50 for name, (p50, _) in times[_CANDIDATES[-1]].items()}
    console.print(
        f"At {_CANDIDATES[-1]:,} candidates, by the median: student / teacher "
        f"{most['student'] / most['teacher']:.2f}; student / student + towers "
        f"{most['student'] / most['student + towers']:.2f}; student, list: "
        f"{most['student'] / most['student, list']:.1f} times the student's rows/s",
        soft_wrap=True,
    )


def _calls(experiment: Experiment, folder: Path) -> dict[str, Callable[[int], Call]]:
    """Return, for each model, a function from a number of candidates to a call."""
    import tensorflow as tf

    schema = experiment.schema
    served = _served(experiment, folder)

    def call(name: str, signature: str, *, once: bool) -> Callable[[int], Call]:
        function = served[name].signatures[signature]

        def make(n: int) -> Call:
            columns = {key: tf.constant(values) for key, values in _rows(schema, n, once=once).items()}
            return lambda: function(**columns)["click"].numpy()

        return make

    return {
        **{name: call(name, "serving_default", once=False) for name in served},
        "student, list": call("student", "score_list", once=True),
        "student, LiteRT": _lite(schema, folder / "student"),
    }


def _rows(schema: Schema, n: int, *, once: bool) -> dict[str, np.ndarray]:
    """Return random inputs [n]. The user's features are the same in all rows, or given once."""
    rng = np.random.default_rng(1)
    columns = {}
    for f in schema.inputs():
        size = [n, *f.shape]
        values = (
            rng.integers(0, max(f.capacity, 2), size) if f.is_id else rng.exponential(30, size).astype("f4")
        )
        values = values.astype(str).astype(object) if f.dtype == "string" else values
        if f.scope == "user":
            values = values[:1] if once else np.repeat(values[:1], n, axis=0)
        columns[f.name] = values
    return columns


def _served(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Return the teacher, and the student without and with towers, saved below `folder` and loaded from there."""
    import tensorflow as tf

    from tutelage.export.saved_model import Served
    from tutelage.models.config import distil
    from tutelage.models.ranker import Ranker

    schema, student = experiment.schema, experiment.student(_STUDENT.value).model
    distillation = distil(*(task.name for task in schema.tasks))
    rankers = {
        "teacher": Ranker(schema, experiment.teacher.model),
        "student": Ranker(schema, student),
        "student + towers": Ranker(schema, student, distillation=distillation),
    }
    served = {}
    for name, ranker in rankers.items():
        module = Served(ranker, experiment.serving)
        if ranker.distillation:
            module.model_variables = list(ranker.variables)
            module.functions = {"serving_default": _with_towers(ranker, module)}
        module.save(str(folder / name))
        served[name] = tf.saved_model.load(str(folder / name))
    return served


def _lite(schema: Schema, path: Path) -> Callable[[int], Call]:
    """Return the function from a number of candidates to a call in LiteRT of the model saved at `path`."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from tutelage.models.id_map import fingerprint

    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=["serve_ids"])
    model = converter.convert()
    threads = tf.config.threading.get_intra_op_parallelism_threads() or None

    def make(n: int) -> Call:
        runner = Interpreter(model_content=model, num_threads=threads).get_signature_runner("serve_ids")
        columns = {
            name: fingerprint(tf.constant(values)).numpy() if values.dtype == object else values
            for name, values in _rows(schema, n, once=False).items()
        }
        return lambda: runner(**columns)["click"]

    return make


def _with_towers(ranker: Any, module: Any) -> Any:
    """Return the served signature with the outputs of the auxiliary towers added."""
    from tutelage.export.signatures import by_column

    served = module.functions["serving_default"]

    def both(**columns: Any) -> dict[str, Any]:
        # Both calls share the embeddings and the layers before the towers: TensorFlow merges them.
        _, auxiliary = ranker.forward(*ranker.transform(columns))
        return {**served(**columns), **{f"auxiliary_{name}": value for name, value in auxiliary.items()}}

    return by_column(both, ranker.schema.features)


def _times(calls: dict[str, Call]) -> dict[str, tuple[float, float]]:
    """Return the median and the 99th percentile in seconds of each; they are called in turn, to share the noise."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(_CALLS.value + 10):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if i >= 10:
                seconds[name].append(time.perf_counter() - started)
    return {name: (statistics.median(s), float(np.quantile(s, 0.99))) for name, s in seconds.items()}


if __name__ == "__main__":
    app.run(main)
