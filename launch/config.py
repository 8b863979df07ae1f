"""Load an experiment by name or from a file, and override single fields."""

import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
import traceback
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

from tutelage.launch import configs
from tutelage.launch.experiment import Experiment
from tutelage.models.config import Distillation
from tutelage.models.losses import BUILT_IN, SoftLoss
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema


def load(config: str, *, smoke: bool = False, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a config's name or of a Python file, with `field=value` overrides applied.

    Raises UserError for an unknown config or field, a value that does not fit its field, and a mistake in the file.
    """
    known = sorted(info.name for info in pkgutil.iter_modules(configs.__path__))
    if not config.endswith(".py"):
        if config not in known:
            raise UserError(
                f"--config={config}: unknown; give one of {', '.join(known)}, or a path to a .py file"
            )
        module = importlib.import_module(f"{configs.__name__}.{config}")
        return _experiment(module, config, smoke, overrides)
    path = Path(config)
    if not path.is_file():
        raise UserError(
            f"--config={config}: there is no such file; give a path to a .py file or a config's name"
        )
    spec = importlib.util.spec_from_file_location(f"tutelage_config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass with postponed annotations looks its module up here. The entry is removed afterwards, because
    # Beam pickles a class by value for its workers only where the class's module cannot be imported.
    sys.modules[spec.name] = module
    try:
        with _mistakes_in(spec.origin or config):
            spec.loader.exec_module(module)
            return _experiment(module, config, smoke, overrides)
    finally:
        del sys.modules[spec.name]


def _experiment(module: types.ModuleType, config: str, smoke: bool, overrides: Sequence[str]) -> Experiment:
    if not hasattr(module, "experiment"):
        raise UserError(f"--config={config}: the file has no function experiment(smoke); see launch/configs/")
    experiment = module.experiment(smoke=smoke)
    if not isinstance(experiment, Experiment):
        raise UserError(
            f"--config={config}: experiment(smoke) returned {experiment!r}, expected an Experiment"
        )
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise UserError(
                f"--set={override}: expected field=value, as in --set=students.auxiliary.distillation.click.alpha=3"
            )
        experiment = _replace(
            experiment, path.split("."), text, flag=f"--set={override}", schema=experiment.schema
        )
    return experiment


@contextmanager
def _mistakes_in(path: str) -> Iterator[None]:
    """Turn a mistake that a line of the config file makes into one line that names it, as for a misspelt field.

    An error that is raised deeper, in code that the file calls, keeps its traceback.
    """
    try:
        yield
    except (SyntaxError, NameError, TypeError, AttributeError, ImportError) as error:
        if isinstance(error, SyntaxError) and error.filename == path:
            number = error.lineno
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            if last.filename != path:
                raise
            number = last.lineno
        message = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(f"{path}, line {number}: {type(error).__name__}: {message}") from error


def _replace(node: Any, path: Sequence[str], text: str, *, flag: str, schema: Schema) -> Any:
    """Return `node` with the field at `path` replaced; an item of a tuple is found by its `name`."""
    head, rest = path[0], path[1:]
    if isinstance(node, tuple):
        names = [getattr(item, "name", None) for item in node]
        if head not in names:
            have = ", ".join(map(str, names)) or "none"
            raise UserError(f"{flag}: no {head!r} here; there are {have}")
        if not rest:
            raise UserError(f"{flag}: {head!r} is no single value; name one of its fields")
        return tuple(
            _replace(item, rest, text, flag=flag, schema=schema) if name == head else item
            for item, name in zip(node, names, strict=True)
        )
    fields = [field.name for field in dataclasses.fields(node)]
    if head not in fields:
        raise UserError(
            f"{flag}: {type(node).__name__} has no field {head!r}; it has {', '.join(fields) or 'none'}"
        )
    value = getattr(node, head)
    if value is None and rest and isinstance(node, Distillation):
        value = node.loss_for(*schema.select_tasks([node.task]))
    items = value if isinstance(value, tuple) else (value,)
    if rest and not all(map(dataclasses.is_dataclass, items)):
        raise UserError(f"{flag}: {head!r} is a single value and has no field {rest[0]!r}")
    new = (
        _replace(value, rest, text, flag=flag, schema=schema)
        if rest
        else _parse(typing.get_type_hints(type(node))[head], text, flag)
    )
    return dataclasses.replace(node, **{head: new})


def _parse(kind: Any, text: str, flag: str) -> Any:
    """Return `text` as a value of the field's type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        types_ = [each for each in args if each is not types.NoneType]
        if len(types_) < len(args) and text in ("", "None"):
            return None
        for each in types_[:-1]:
            with suppress(UserError):
                return _parse(each, text, flag)
        return _parse(types_[-1], text, flag)
    if kind is SoftLoss:
        if text not in BUILT_IN:
            raise UserError(f"{flag}: expected one of {', '.join(BUILT_IN)}")
        return BUILT_IN[text]()
    if origin is typing.Literal:
        return text  # The dataclass says which values it takes.
    if origin is tuple and args[0] in (int, float, str):
        return tuple(_parse(args[0], item, flag) for item in text.split(",") if item)
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float, str, date):
        try:
            return date.fromisoformat(text) if kind is date else kind(text)
        except ValueError:
            pass
    raise UserError(f"{flag}: {text!r} does not fit a field of type {getattr(kind, '__name__', kind)}")
