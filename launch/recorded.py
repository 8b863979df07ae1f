"""Read the configs that older versions recorded in a workdir."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tutelage.launch.experiment import CHANGEABLE, plain

_RENAMED: Mapping[str, Mapping[str, str]] = {"Feature": {"rows": "capacity"}}
"""Class → the name that an older version recorded for a field → its name today."""


_SOFT_LOSSES = {
    "cross_entropy": "CrossEntropy",
    "logit_mse": "LogitMSE",
    "listwise": "Listwise",
    "squared_error": "SquaredError",
    "kl": "ZilnKL",
}
"""Classes by the names that an older version recorded in `Distillation.loss`; empty was the default."""


def _with_loss_object(distillation: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded `Distillation` with its loss as an object: its parameters were fields of their own before."""
    parameters = {"temperature": 1.0, "label_scale": 1.0}
    ours = parameters | {name: distillation[name] for name in parameters if name in distillation}
    rest = {name: value for name, value in distillation.items() if name not in parameters}
    name = rest.get("loss") or ("cross_entropy" if ours != parameters else "")
    if isinstance(name, str):
        kind = _SOFT_LOSSES.get(name)
        rest["loss"] = kind and {"type": kind, **(ours if kind == "CrossEntropy" else {})}
    return rest


def _with_backbone(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded `ModelConfig` with its network as a backbone: it had four fields of its own before."""
    old: dict[str, Any] = {"hidden": [], "cross_layers": 0, "dot_interaction": False, "experts": 0}
    if "hidden" not in recorded:
        return recorded
    old |= {name: value for name, value in recorded.items() if name in old}
    kinds = {"MMoE": "experts", "DLRM": "dot_interaction", "DCNv2": "cross_layers"}
    kind = next((kind for kind, field in kinds.items() if old[field]), "MLP")
    fields = {"MMoE": list(old), "DCNv2": ["hidden", "cross_layers"]}.get(kind, ["hidden"])
    backbone = {"type": kind, **{name: old[name] for name in fields}}
    return {name: value for name, value in recorded.items() if name not in old} | {"backbone": backbone}


_CONVERTED = {"ModelConfig": _with_backbone, "Distillation": _with_loss_object}
"""Class → the function that brings what an older version recorded up to date, where more than a name changed."""


def completed(recorded: Any, now: Any) -> Any:
    """Return what `plain` recorded, brought up to the classes of `now`.

    A field that an older version did not have gets its default, because that version did what the default says.
    A renamed field gets its new name.
    """
    if isinstance(recorded, list):
        # Items are matched by name, in whatever order they are.
        by_name = {getattr(item, "name", None): item for item in now} if isinstance(now, tuple) else {}
        return [
            completed(item, by_name.get(item.get("name", item.get("task"))))
            if by_name and isinstance(item, dict)
            else item
            for item in recorded
        ]
    if not isinstance(recorded, dict):
        return recorded
    renamed = _RENAMED.get(recorded.get("type", ""), {})
    recorded = {renamed.get(name, name): value for name, value in recorded.items()}
    recorded = _CONVERTED.get(recorded.get("type", ""), dict)(recorded)
    if isinstance(now, dict):
        return {name: completed(value, now.get(name)) for name, value in recorded.items()}
    if recorded.get("type") != type(now).__name__ or not dataclasses.is_dataclass(now):
        return recorded
    defaults = {
        field.name: plain(field.default)
        for field in dataclasses.fields(now)
        if field.name not in CHANGEABLE and field.default is not dataclasses.MISSING
    }
    known = {name: completed(value, getattr(now, name, None)) for name, value in recorded.items()}
    return known | {name: value for name, value in defaults.items() if name not in known}
