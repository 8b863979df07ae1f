"""What a SavedModel contains, whoever made it: bytes, ops and variables. Nothing in it is run."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

from tutelage.pipeline.errors import UserError

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The size of a SavedModel, its ops and its variables."""

    bytes: int
    """The size of all files on disk."""
    ops: Mapping[str, int]
    """The number of ops by type that the signatures run, together. A function's ops count once."""
    variables: tuple[tuple[str, tuple[int, ...]], ...]
    """(name, shape) of each stored variable, in the order of the names."""


def describe(path: Path | str) -> Contents:
    """Return what the SavedModel in the folder `path` contains.

    Raises UserError if it cannot be read, or if something in it leads out of the folder.
    """
    root = Path(path)
    size = sum(file.lstat().st_size for file in _files(root))
    used = {id(node): node for meta in _read(root).meta_graphs for node in _run_by_signatures(meta)}.values()
    ops = Counter(node.op for node in used)
    return Contents(bytes=size, ops=dict(sorted(ops.items())), variables=tuple(sorted(_variables(root))))


def check(path: Path | str) -> Contents:
    """Return what `describe` returns, and raise UserError also for anything that must not be served.

    That is an auxiliary tower's variable, a variable that no function of the model reads (such as an
    optimizer's), a call of Python, and an op that plain TensorFlow does not have.
    """
    contents = describe(path)
    for name, _ in contents.variables:
        if "auxiliary" in name:
            raise UserError(f"{path} holds {name!r} of an auxiliary tower; export without auxiliary towers")
    model = _read(Path(path))
    for op in sorted({node.op for meta in model.meta_graphs for node in _nodes(meta)}):
        if "PyFunc" in op:
            raise UserError(f"{path} calls Python ({op}), which no server has; export standard ops only")
        if not hasattr(tf.raw_ops, op):
            raise UserError(f"{path} has a custom op {op!r}; export standard ops only")
    read = sum(len(_read_variables(meta)) for meta in model.meta_graphs)
    if len(contents.variables) > read:
        raise UserError(
            f"{path} stores {len(contents.variables)} variables and reads {read}; "
            "export without the optimizer and all that only training needs"
        )
    return contents


def _files(root: Path) -> list[Path]:
    """Return every file below `root`, links included. Raises UserError for a link out of it and for a device."""
    found = []
    top = os.path.realpath(root)
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            entry = Path(folder, name)
            if not Path(os.path.realpath(entry)).is_relative_to(top):
                raise UserError(f"{entry} is a link out of {root}; put the file itself there")
            if "\\" in name or not name.isprintable():
                raise UserError(f"{root} has a file named {name!r}; expected plain names")
            if not entry.is_dir() and not entry.is_file():
                raise UserError(f"{entry} is neither a file nor a folder; remove it")
        found += [Path(folder, name) for name in files]
    return found


def _read(root: Path) -> Any:
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString((root / "saved_model.pb").read_bytes())
    except (OSError, DecodeError):
        raise UserError(f"{root} is not a SavedModel: its saved_model.pb cannot be read") from None
    for meta in model.meta_graphs:
        for asset in meta.asset_file_def:
            if asset.filename in ("", ".", "..") or "/" in asset.filename or "\\" in asset.filename:
                raise UserError(
                    f"{root} names an asset {asset.filename!r}; expected the plain name of a file"
                )
    return model


def _nodes(meta: Any) -> Iterator[Any]:
    """Yield the nodes of the graph and of every function."""
    yield from meta.graph_def.node
    for function in meta.graph_def.library.function:
        yield from function.node_def


def _run_by_signatures(meta: Any) -> Iterator[Any]:
    """Yield the nodes that the signatures' outputs depend on, and those of the functions that they call."""
    nodes = {node.name: node for node in meta.graph_def.node}
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    todo = [tensor.name for signature in meta.signature_def.values() for tensor in signature.outputs.values()]
    seen: set[str] = set()
    calls: list[str] = []
    while todo:
        name = todo.pop().removeprefix("^").partition(":")[0]
        if name in nodes and name not in seen:
            seen.add(name)
            yield nodes[name]
            todo += nodes[name].input
            calls += _calls([nodes[name]])
    called: set[str] = set()
    while calls:
        name = calls.pop()
        if name in functions and name not in called:
            called.add(name)
            yield from functions[name].node_def
            calls += _calls(functions[name].node_def)


def _calls(nodes: Iterable[Any]) -> list[str]:
    """Return the names of the functions that the nodes' attributes hold."""
    values = [value for node in nodes for value in node.attr.values()]
    return [value.func.name for value in values if value.HasField("func")] + [
        function.name for value in values for function in value.list.func
    ]


def _read_variables(meta: Any) -> set[int]:
    """Return the variables that functions of the model hold, as indices of nodes in the object graph."""
    graph = meta.object_graph_def
    held = {i for function in graph.concrete_functions.values() for i in function.bound_inputs}
    return {i for i, node in enumerate(graph.nodes) if i in held and node.HasField("variable")}


def _variables(root: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and the shape of each stored variable. One without a name in the object graph has its key."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        reader = tf.train.load_checkpoint(str(root / "variables" / "variables"))
        shapes = reader.get_variable_to_shape_map()
        if _GRAPH in shapes:
            graph.ParseFromString(reader.get_tensor(_GRAPH))
    except (tf.errors.OpError, ValueError, DecodeError):
        raise UserError(f"{root} is not a SavedModel: its variables cannot be read") from None
    names = {a.checkpoint_key: a.full_name for node in graph.nodes for a in node.attributes}
    for key, shape in shapes.items():
        if key != _GRAPH:
            yield names.get(key) or key, tuple(shape)
