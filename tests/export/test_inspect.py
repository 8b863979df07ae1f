"""What a SavedModel contains is reported; what must not be served or leads out of its folder is refused."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.export.serving import MODEL, SERVING, TWO_SCOPES, make_ranker
from tutelage.export.inspect import check, describe
from tutelage.export.saved_model import Served
from tutelage.models.config import distil
from tutelage.models.ranker import Ranker
from tutelage.pipeline.errors import UserError

# A table of capacity 50 + 40 + 20 + 10 and width 4; from 4 ids of 4 and 3 numbers to 16 to 8 units; a head per task.
VARIABLES = (
    ("ranker/click/bias", (1,)),
    ("ranker/click/kernel", (8, 1)),
    ("ranker/embeddings/table", (120, 4)),
    ("ranker/shared_16/bias", (16,)),
    ("ranker/shared_16/kernel", (19, 16)),
    ("ranker/shared_8/bias", (8,)),
    ("ranker/shared_8/kernel", (16, 8)),
    ("ranker/watch/bias", (1,)),
    ("ranker/watch/kernel", (8, 1)),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "model"
    Served(make_ranker(), SERVING).save(str(path))
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(made, tmp_path / "model")


def _save(path: Path, function: Any, **tracked: Any) -> Path:
    """Save a model with one function of float32 [batch], `serving_default`."""
    module = tf.Module()
    for name, value in tracked.items():
        setattr(module, name, value)
    served = tf.function(function, input_signature=[tf.TensorSpec([None], tf.float32)])
    tf.saved_model.save(module, str(path), signatures={"serving_default": served})
    return path


def _refused(path: Path, says: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        check(path)


def test_a_student_s_version_holds_only_its_served_path(made: Path) -> None:
    contents = check(made)
    assert contents == describe(str(made))
    assert contents.variables == VARIABLES
    assert contents.bytes == sum(file.stat().st_size for file in made.rglob("*") if file.is_file())


def test_ops_are_those_that_signatures_run_and_a_function_s_ops_count_once(tmp_path: Path) -> None:
    weight = tf.Variable(2.0)
    twice = tf.function(lambda x: tf.nn.relu(x * weight), input_signature=[tf.TensorSpec([None], tf.float32)])
    path = _save(tmp_path / "m", lambda x: tf.exp(twice(x)) + twice(-x), weight=weight, twice=twice)
    ops = describe(path).ops
    assert {op: ops.get(op) for op in ("Relu", "Mul", "Exp", "Neg", "AddV2")} == {
        "Relu": 1,
        "Mul": 1,
        "Exp": 1,
        "Neg": 1,
        "AddV2": 1,
    }
    # The signature's input and the variable that it reads, without the ops that save and restore.
    assert (ops["Placeholder"], ops["VarHandleOp"]) == (1, 1)
    assert not {"SaveV2", "RestoreV2"} & ops.keys()


def test_an_auxiliary_tower_s_variable_is_refused(tmp_path: Path) -> None:
    towers = distil(*(task.name for task in TWO_SCOPES.tasks))
    ranker = Ranker(TWO_SCOPES, MODEL, distillation=towers)
    served = Served(ranker, SERVING)
    served.model_variables = list(ranker.variables)
    path = tmp_path / "m"
    served.save(str(path))
    left = [variable for variable in describe(path).variables if variable not in VARIABLES]
    # A head with a bias for each of the two tasks.
    assert len(left) == 4
    assert all(re.match("auxiliary_(click|watch)/", name) for name, _ in left)
    _refused(path, f"{path} holds {left[0][0]!r} of an auxiliary tower; export without auxiliary towers")


def test_an_optimizer_s_variables_are_refused(tmp_path: Path) -> None:
    ranker = make_ranker()
    served = Served(ranker, SERVING)
    served.adagrad = tf.keras.optimizers.Adagrad()
    served.adagrad.build(ranker.served_variables)
    path = tmp_path / "m"
    served.save(str(path))
    stored = len(describe(path).variables)
    # An accumulator per variable, the number of steps and the learning rate.
    assert stored == 2 * len(VARIABLES) + 2
    _refused(
        path,
        f"{path} stores {stored} variables and reads {len(VARIABLES)}; "
        "export without the optimizer and all that only training needs",
    )


@pytest.mark.parametrize(("call", "op"), [(tf.py_function, "EagerPyFunc"), (tf.numpy_function, "PyFunc")])
def test_a_call_of_python_is_refused(tmp_path: Path, call: Any, op: str) -> None:
    path = _save(tmp_path / "m", lambda x: call(np.exp, [x], tf.float32))
    _refused(path, f"{path} calls Python ({op}), which no server has; export standard ops only")


def _edit(folder: Path, change: Any) -> None:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    change(saved.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())


def test_a_custom_op_is_refused_wherever_it_is(folder: Path) -> None:
    _edit(folder, lambda meta: meta.graph_def.library.function[0].node_def.add(name="x", op="MyHash"))
    _refused(folder, f"{folder} has a custom op 'MyHash'; export standard ops only")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", "a\\b"])
def test_an_asset_named_by_a_path_is_refused(folder: Path, name: str) -> None:
    _edit(folder, lambda meta: meta.asset_file_def.add(filename=name))
    _refused(folder, f"{folder} names an asset {name!r}; expected the plain name of a file")


@pytest.mark.parametrize("name", ["saved_model.pb", "variables", "variables/variables.index", "assets/words"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    out = folder.parent / "out"
    out.mkdir()
    link = folder / name
    link.parent.mkdir(exist_ok=True)
    if link.exists():
        shutil.move(link, out / link.name)
    link.symlink_to(Path(os.path.relpath(out / link.name, link.parent)))
    _refused(folder, f"{link} is a link out of {folder}; put the file itself there")


def test_a_link_to_a_sibling_whose_name_begins_alike_is_refused(folder: Path) -> None:
    neighbour = folder.with_name("model-2")
    neighbour.mkdir()
    (folder / "assets" / "more").symlink_to(neighbour)
    _refused(folder, f"{folder / 'assets' / 'more'} is a link out of {folder}; put the file itself there")


def test_a_link_within_the_folder_is_accepted(folder: Path) -> None:
    (folder / "assets" / "copy").symlink_to("../saved_model.pb")
    assert check(folder).variables == VARIABLES


def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    assert check(link) == check(folder)


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "a\x1b[2J"])
def test_a_file_whose_name_is_not_plain_is_refused(folder: Path, name: str) -> None:
    (folder / "assets" / name).touch()
    _refused(folder, f"{folder} has a file named {name!r}; expected plain names")


def test_a_device_is_refused(folder: Path) -> None:
    loop, pipe = folder / "assets" / "loop", folder / "assets" / "pipe"
    loop.symlink_to("loop")
    _refused(folder, f"{loop} is neither a file nor a folder; remove it")
    loop.unlink()
    os.mkfifo(pipe)
    _refused(folder, f"{pipe} is neither a file nor a folder; remove it")


def test_a_folder_that_is_not_a_saved_model_is_refused(folder: Path, tmp_path: Path) -> None:
    _refused(tmp_path / "none", f"{tmp_path / 'none'} is not a SavedModel: its saved_model.pb cannot be read")
    (folder / "variables" / "variables.index").write_bytes(b"no index")
    _refused(folder, f"{folder} is not a SavedModel: its variables cannot be read")
    (folder / "variables" / "variables.index").unlink()
    _refused(folder, f"{folder} is not a SavedModel: its variables cannot be read")
    (folder / "saved_model.pb").write_bytes(b"\xff" * 100)
    _refused(folder, f"{folder} is not a SavedModel: its saved_model.pb cannot be read")
