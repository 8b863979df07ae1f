"""The model card beside a version, for people and for programs, and TensorFlow Serving's list of models."""

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tutelage.export.versions.version import MODEL_CARD
from tutelage.pipeline.io.atomic import move_new
from tutelage.pipeline.io.folders import replace_files
from tutelage.pipeline.io.json import json_object, read_json, sealed
from tutelage.pipeline.io.paths import remote

PATH = MODEL_CARD
_COMPARED = {
    "name": "metric",
    "value": "this version",
    "reference": "served version",
    "worse": "worse by",
    "low": "from",
    "high": "to",
    "margin": "margin",
    "rows": "rows",
    "users": "users",
    "passed": "passed",
}
"""The columns of the card's table of comparisons. `worse by` and `margin` are shares for metrics of loss."""
LIBRARIES = ("tutelage", "tensorflow", "tf-keras", "tensorflow-recommenders", "numpy", "polars")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a card says beyond the version's files. A value that is not finite is written as null."""

    model: str
    day: date
    """The last day that the version was trained on."""
    first_day: date
    rows: int
    """Examples that it was trained on, from the first day to the last."""
    config: Mapping[str, Any]
    """The fields of the student's configuration, of types that JSON has."""
    teacher: str | None = None
    label_coverage: float | None = None
    """The share of the last day's rows that had a soft label."""
    judged_day: date
    """The day of the rows that it was judged on, and compared with the served version."""
    judged_rows: int
    holdout: float
    """The share of its last day's users that no model was trained on; 0: it was judged on a later day."""
    served: int | None = None
    """The version that was served then, or None if there was none."""
    comparisons: Sequence[Mapping[str, Any]] = ()
    """A mapping for each quality metric: its name, both versions' values on the same rows, how much worse it is with
    the interval and the margin, the rows and their users, whether it passed."""
    verdict: str
    """The verdict of the gate."""
    checks: Sequence[Mapping[str, Any]] = ()
    """A mapping for each other thing that the gate looked at: its name, both values, the bound, whether it passed."""
    served_as: Mapping[str, int | float | str | None] = field(default_factory=dict)
    """The value of each feature that no request has, by name."""
    parameters: int
    ops: int
    units: Mapping[str, str] = field(default_factory=dict)
    """The unit of a task's values, where it is known."""
    sampled_negatives: int = 0
    """How many negatives were sampled for each positive (`Schema.negatives`)."""


def write_card(folder: Path, facts: Facts) -> None:
    """Write `model_card.json` and `model_card.md` into a version's folder. All other files must be there already."""
    files = _files(folder)
    card = _plain(
        {
            **asdict(facts),
            "bytes": sum(file.stat().st_size for file in files),
            "sha256": sha256(folder),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        }
    )
    (folder / PATH).parent.mkdir(parents=True, exist_ok=True)
    _write(folder, card)


def record_override(folder: Path, reason: str) -> None:
    """Add to a version's card why it is served although it was not blessed."""
    _write(folder, {**_read(folder), "override": reason})


def update_hash(folder: Path, replacements: Mapping[Path, Path]) -> None:
    """Update the size and the hash in a version's card as if files were replaced already.

    `replacements` maps a file of the version to the new one, which lies beside it and is not part of the version
    yet.
    """
    card = _read(folder)
    files = [replacements.get(file, file) for file in _files(folder) if file not in replacements.values()]
    size = sum(file.stat().st_size for file in files)
    _write(folder, {**card, "bytes": size, "sha256": sha256(folder, replacements)})


def _read(folder: Path) -> dict[str, Any]:
    mend = "restore it from a backup, or remove the version: its day is exported again"
    card: dict[str, Any] = read_json(folder / f"{PATH}.json", json_object, mend=mend)
    return card


def _write(folder: Path, card: Mapping[str, Any]) -> None:
    texts = {
        "json": json.dumps(sealed(card), indent=1, allow_nan=False) + "\n",
        "md": _markdown(card),
    }
    if remote(folder):
        replace_files(folder, {f"{PATH}.{suffix}": text.encode() for suffix, text in texts.items()})
        return
    for suffix, text in texts.items():
        # The name of what a killed process leaves begins as the card's does: it is no part of the version either.
        partial = folder / f"{PATH}.partial"
        partial.write_text(text)
        move_new(partial, folder / f"{PATH}.{suffix}")


def sha256(folder: Path, replacements: Mapping[Path, Path] = MappingProxyType({})) -> str:
    """Return the SHA-256 of a version's files except the card; `replacements` is as in `update_hash`.

    GNU tools compute the same in the version's folder:

    find . -type f ! -name 'model_card.*' -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum
    """
    whole = hashlib.sha256()
    for path in _files(folder):
        if path in replacements.values():
            continue
        with replacements.get(path, path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{digest}  {path.relative_to(folder).as_posix()}\n".encode())
    return whole.hexdigest()


def models_config(root: str, names: Sequence[str]) -> str:
    """Return TensorFlow Serving's models.config, which serves the highest number in `root`/NAME of each model.

    `root` is the path as the server sees it, such as /models or s3://bucket/export.

    >>> print(models_config("/models", ["auxiliary"]))
    model_config_list {
      config {
        name: "auxiliary"
        base_path: "/models/auxiliary"
        model_platform: "tensorflow"
      }
    }
    <BLANKLINE>
    """
    config = model_server_config_pb2.ModelServerConfig()
    for name in names:
        config.model_config_list.config.add(
            name=name, base_path=f"{root.rstrip('/')}/{name}", model_platform="tensorflow"
        )
    return text_format.MessageToString(config)


def _files(folder: Path) -> list[Path]:
    """Return all files except the card, in the byte order of their relative paths."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("model_card."))
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # Under Bazel tutelage is not installed.
        return None


def _plain(value: Any) -> Any:
    """Return a value of types that JSON has; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, date) else value


def _markdown(card: Mapping[str, Any]) -> str:
    # Cards of older releases have neither.
    units, n = card.get("units", {}), card.get("sampled_negatives", 0)
    served = card.get("served_as", {})
    facts = {
        "Verdict of the gate": card["verdict"],
        **({"Served despite that, because": card["override"]} if "override" in card else {}),
        "Trained on": f"{card['first_day']} to {card['day']}, {card['rows']:,} rows",
        **({"Scores are those among": f"a positive and {n} sampled negatives"} if n else {}),
        "Judged on": _judged(card),
        **({"Units": ", ".join(f"{task} in {unit}" for task, unit in units.items())} if units else {}),
        "Teacher": card["teacher"],
        "Label coverage of the last day": card["label_coverage"],
        "Size": f"{card['bytes']:,} bytes, {card['parameters']:,} parameters, {card['ops']:,} ops",
        **(
            {"Served as": ", ".join(f"{name} = {value!r}" for name, value in served.items())}
            if served
            else {}
        ),
        "SHA-256 of all files except this card": card["sha256"],
    }
    checks, compared = card["checks"], card.get("comparisons", ())
    parts = [
        f"# {card['model']}, {card['day']}",
        _table(("", ""), facts.items()),
        "## Compared with the served version, on the same rows",
        _table(_COMPARED.values(), [[each.get(name) for name in _COMPARED] for each in compared])
        if compared
        else "Nothing was compared.",
        "## Other checks of the gate",
        _table(tuple(checks[0]), [tuple(check.values()) for check in checks]) if checks else "No checks.",
        "## Config",
        f"```json\n{json.dumps(card['config'], indent=1)}\n```",
        "## Library versions",
        _table(("library", "version"), card["versions"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _judged(card: Mapping[str, Any]) -> str:
    """Return the rows that a version was judged on. A card of an older release does not say."""
    if "judged_day" not in card:
        return "–"
    share = f"{100 * card['holdout']:g} % of the users, withheld from training"
    which = share if card["holdout"] else "all, of a day after its last one"
    served = card["served"] or "nothing"
    return f"{card['judged_rows']:,} rows of {card['judged_day']} ({which}); served then: {served}"


def _table(heads: Iterable[str], rows: Any) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
