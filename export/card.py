"""The model card beside a version, for people and for programs, and the server's list of models."""

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

PATH = "assets.extra/model_card"
"""Where it lies in the folder of a version, without its ending: `.json` and `.md`."""
LIBRARIES = ("tutelage", "tensorflow", "tf-keras", "tensorflow-recommenders", "numpy", "polars")

Metrics = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a card says and the version's files do not. A value that is not finite is written as null."""

    model: str
    day: date
    """The version's: the last that it has learnt."""
    first_day: date
    rows: int
    """Learnt from the first day to the last."""
    config: Mapping[str, Any]
    """The model's fields, as JSON takes them."""
    teacher: str | None = None
    label_coverage: float | None = None
    """Share of the last day's rows that had a soft label."""
    metrics: Metrics
    """Task → metric → value of the last day, scored before any of it was learnt (`day_ahead`)."""
    blessed: Metrics | None = None
    """The same of the last blessed version; None: there was none."""
    verdict: str
    """The gate's."""
    checks: Sequence[Mapping[str, Any]] = ()
    """A mapping for each thing that the gate looked at: its name, both values, the bound, whether it passed."""
    parameters: int
    ops: int


def write_card(folder: Path, facts: Facts) -> None:
    """Write `model_card.json` and `model_card.md` into a version's folder, as the last of its files."""
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
    """Note in a version's card why it is served though it was not blessed."""
    card = json.loads((folder / f"{PATH}.json").read_text())
    _write(folder, {**card, "override": reason})


def renew(folder: Path, instead: Mapping[Path, Path]) -> None:
    """Give a version's card the size and the hash of its files as they are with others `instead` of some of
    them; the others lie beside these, and are no files of the version yet."""
    card = json.loads((folder / f"{PATH}.json").read_text())
    files = [instead.get(file, file) for file in _files(folder) if file not in instead.values()]
    size = sum(file.stat().st_size for file in files)
    _write(folder, {**card, "bytes": size, "sha256": sha256(folder, instead)})


def _write(folder: Path, card: Mapping[str, Any]) -> None:
    (folder / f"{PATH}.json").write_text(json.dumps(card, indent=1, allow_nan=False) + "\n")
    (folder / f"{PATH}.md").write_text(_markdown(card))


def sha256(folder: Path, instead: Mapping[Path, Path] = MappingProxyType({})) -> str:
    """Of the version's files, the card left out; `instead` is as in `renew`. The same in its folder with GNU tools:

    find . -type f ! -name 'model_card.*' -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum
    """
    whole = hashlib.sha256()
    for path in _files(folder):
        if path in instead.values():
            continue
        with instead.get(path, path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{digest}  {path.relative_to(folder).as_posix()}\n".encode())
    return whole.hexdigest()


def models_config(root: str, names: Sequence[str]) -> str:
    """TensorFlow Serving's models.config: each model from `root`/NAME, the highest number served.

    `root` as the server sees it, as in /models or s3://bucket/export.
    """
    config = model_server_config_pb2.ModelServerConfig()
    for name in names:
        config.model_config_list.config.add(
            name=name, base_path=f"{root.rstrip('/')}/{name}", model_platform="tensorflow"
        )
    return text_format.MessageToString(config)


def _files(folder: Path) -> list[Path]:
    """All but the card, in the order of their relative paths' bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("model_card."))
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # Bazel's tutelage is not installed.
        return None


def _plain(value: Any) -> Any:
    """As JSON takes it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, date) else value


def _markdown(card: Mapping[str, Any]) -> str:
    blessed = card["blessed"] or {}
    metrics = [
        (task, metric, value, blessed.get(task, {}).get(metric))
        for task, values in card["metrics"].items()
        for metric, value in values.items()
    ]
    facts = {
        "Verdict of the gate": card["verdict"],
        **({"Served all the same, as": card["override"]} if "override" in card else {}),
        "Days learnt": f"{card['first_day']} to {card['day']}, {card['rows']:,} rows",
        "Teacher": card["teacher"],
        "Label coverage of the last day": card["label_coverage"],
        "Size": f"{card['bytes']:,} bytes, {card['parameters']:,} parameters, {card['ops']:,} ops",
        "SHA-256 of the files but for this card": card["sha256"],
    }
    checks = card["checks"]
    parts = [
        f"# {card['model']}, {card['day']}",
        _table(("", ""), facts.items()),
        "## Metrics of the last day, scored before any of it was learnt",
        _table(("task", "metric", "this version", "last blessed version"), metrics),
        "## Gate",
        _table(tuple(checks[0]), [tuple(check.values()) for check in checks]) if checks else "No checks.",
        "## Config",
        f"```json\n{json.dumps(card['config'], indent=1)}\n```",
        "## Versions of libraries",
        _table(("library", "version"), card["versions"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Any) -> str:
    lines = [heads, ["---"] * len(heads), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
