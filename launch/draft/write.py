"""Write a draft as a config file."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from tutelage.launch.draft.draft import Draft
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.printable import printable
from tutelage.pipeline.sources.store import File

_UPDATES = 100
"""Updates of a model per slice that a batch size aims at."""
_LARGE = 3_000_000
"""Rows from which on networks are larger."""
_SMALL_SIZES = {
    "teacher": (16, (64, 32), 1),
    "student": (8, (32, 16)),
    # Few updates have to suffice.
    "rates": ", embedding_rate=0.2, dense_rate=2e-3",
}
_LARGE_SIZES = {"teacher": (32, (256, 128), 2), "student": (16, (64, 32)), "rates": ""}


_TEMPLATE = Path(__file__).with_name("config.py.j2")


def refuse_existing(out: str) -> None:
    """Raise UserError if the file is there, or is no .py file."""
    if Path(out).suffix != ".py":
        raise UserError(f"--out={out}: a config is a .py file; give it such a name")
    if os.path.lexists(out):
        raise UserError(f"--out={out} is there already, and stays as it is; remove it, or give another name")


def write(draft: Draft, out: str) -> None:
    """Write the config. Raises UserError if there is such a file, or it cannot be written; no file is replaced."""
    text = render(draft, name=re.sub(r"[^a-z0-9]+", "_", Path(out).stem.lower()).strip("_") or "own_logs")
    refuse_existing(out)
    try:
        with open(out, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(
            f"--out={out}: {error.strerror}; give a file in a folder that can be written to"
        ) from None


def render(draft: Draft, *, name: str) -> str:
    """Return the text of the config, for an experiment of this name."""
    # It is Python and no HTML: each value goes through `code`, or as a comment through `printable`.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"code": code, "said": printable}
    schema, source = draft.schema, draft.source
    batch_size = 2 ** min(max(round(math.log2(max(draft.rows_per_slice / _UPDATES, 1))), 4), 10)
    sizes = _LARGE_SIZES if draft.rows_per_slice * draft.slices >= _LARGE else _SMALL_SIZES
    optional = {"Negatives": schema.negatives, "Side": source.sides}
    imports = sorted(
        ["Feature", "Files", "Schema", "Task", *(name for name, used in optional.items() if used)]
    )
    two = draft.start + timedelta(days=2 * schema.slice_days - 1)
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        name=name,
        read=summary(draft),
        guesses=draft.guesses,
        left_out=draft.features.left_out,
        imports=imports,
        schema=schema,
        source=source,
        notes=draft.notes,
        day_in_path=_day_in_path(draft.table.files),
        batch_size=batch_size,
        slice=_slice(draft),
        updates=max(draft.rows_per_slice // batch_size, 1),
        score=tuple((task.score, 1.0) for task in schema.tasks),
        start=draft.start,
        end=draft.end,
        smoke_end=min(two, draft.end),
        **sizes,
    )


def summary(draft: Draft) -> tuple[str, str]:
    """Return what was read and what of it is used, a line each."""
    table = draft.table
    how = "all" if table.whole else f"parts of {len(table.sampled)} of {len(table.files)} files"
    bad = f"; {table.bad_rows:,} more are no rows" if table.bad_rows else ""
    sampled = " with sampled negatives" if draft.labels.negatives else ""
    return (
        f"Read {table.sample_rows:,} rows of {table.pattern} ({how}{bad}).",
        f"{draft.start} to {draft.end}: {'' if table.whole else 'about '}{draft.rows_per_slice:,} rows a "
        f"{_slice(draft)}{sampled}.",
    )


def _slice(draft: Draft) -> str:
    days = draft.schema.slice_days
    return {1: "day", 7: "week"}.get(days, f"slice of {days} days")


def _day_in_path(files: Sequence[File]) -> str:
    """Return the form in which all paths tell a day; empty where they do not."""
    for separator in ("-", "/", "_", ""):
        form = rf"(?P<before>[A-Za-z_]+=)?20\d\d{separator}[01]\d{separator}[0-3]\d(?!\d)"
        found = [re.search(form, file.below) for file in files]
        if found[0] and all(found):
            return (found[0]["before"] or "") + separator.join(("%Y", "%m", "%d"))
    return ""


def code(value: Any) -> str:
    """Return the Python source of a value. Fields of dataclasses that have their default are left out.

    Example:
        >>> code(("user_id", 20_000))
        '("user_id", 20_000)'
    """
    if isinstance(value, str):
        text = repr(value)
        return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text and "\\'" not in text else text
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(code, value))}{',' * (len(value) == 1)})"
    if dataclasses.is_dataclass(value):
        given = [
            f"{field.name}={code(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        ]
        return f"{type(value).__name__}({', '.join(given)})"
    return repr(value)
