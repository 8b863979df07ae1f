"""Which Keras `tutelage.models` gets, and that a config costs no TensorFlow."""

import subprocess
import sys

import pytest


def _run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_a_config_and_its_backbones_load_no_tensorflow() -> None:
    run = _run(
        "from tutelage.models import MLP, DCNv2, DLRM, MMoE, ModelConfig, InputSpec, distil\n"
        "ModelConfig(embedding_dim=1, backbone=MLP(hidden=(1,)))\n"
        "import sys; assert 'tensorflow' not in sys.modules"
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("before", ["", "import tensorflow as tf"])
def test_tensorflow_may_be_imported_first(before: str) -> None:
    run = _run(
        f"{before}\nimport tutelage.models\nimport tensorflow as tf\n"
        "from tensorflow.keras import layers\nimport tensorflow.keras.losses as losses\n"
        "from tutelage.models import Ranker\n"
        "assert issubclass(Ranker, tf.keras.Model)\n"
        "assert layers.Dense is tf.keras.layers.Dense and layers.Dense.__module__.startswith('tf_keras.')\n"
        "assert losses.MeanSquaredError is tf.keras.losses.MeanSquaredError"
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("use", ["tf.keras.layers", "from tensorflow.keras import layers"])
def test_keras_3_in_use_is_refused(use: str) -> None:
    run = _run(f"import tensorflow as tf\n{use}\nimport tutelage.models")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "ImportError: tf.keras was used before tutelage.models was imported, and is Keras 3, but tutelage.models needs "
        "Keras 2: import tutelage.models before the first use of tf.keras, or set TF_USE_LEGACY_KERAS=1 in the "
        "environment"
    )
