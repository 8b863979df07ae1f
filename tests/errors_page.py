"""Write docs/errors.md: every message with which a command may end, from the code that raises it.

The messages say themselves what was passed, what was expected and what to do, so the page is a list of their texts.
`python -m tests.errors_page` writes it; a test compares it with the code.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/errors.md"
ROOMS = ("pipeline", "models", "trainers", "export", "launch")
STATUS = {"UserError": 1, "Found": 2, "GateError": 3, "TransientError": 75}
"""The status of each class; a class that is derived has that of its base."""
INTRO = """# Errors

Every message with which a command may end, by the module that raises it. `…` stands for names and values. The status is
that of the [table](operations.md#what-the-run-tells-you-and-what-to-do). `make errors` writes this page from the code.
"""
REMEDIES = {
    "… (…)": "wait for the process that is named, or stop it",
    "--beam_flag: …": "correct the flag; Beam's message names it",
    "day … is neither YYYY-MM-DD nor today, yesterday or today-N": "give one of these",
    "feature …: capacity is …, an id needs between 1 and 2**31 - 1": "give a capacity between these",
    "…, and is not mended: …": "do what the end of the message says",
    "feature …: log1p is for float32 features, this one is …": "leave log1p out, or make the feature a float32",
    "schema: features, tasks and key must each name at least one column": "name one of each",
    "schema: key column … is neither a feature, a label nor event_time_us": "name one of these",
    "history … needs a user, and the schema names no `user`": "give the schema its user, or leave the history out",
    "…: the expression …: …": "correct the expression; the end of the message is what Polars says of it",
    "…: …": "correct what the message names",
    "… needs the schema's `user`, and the schema names none": "give the schema its user, or choose another loss",
    "… needs the schema's `user`, and the model does not take it": "take the user out of the model's without",
    "distillation of …: shared_layers is …, the model has … that its tasks share": "give at most so many",
    "… of its scores are not finite": "look at the model's last days in the report; the version is not served",
    "… is not a SavedModel: its saved_model.pb cannot be read": "run tutelage-verify",
    "… is not a SavedModel: its variables cannot be read": "run tutelage-verify",
    "it takes …, which the schema no longer has": "nothing: the new version is judged without the served one",
    "… is a logged score but not an output of …, which has …": "rename the score in the log, or leave it out",
    "……: …": "correct the line of the log that is named",
    "…: is not a TFRecord of tf.Examples with features: …": "give a file of serialised tf.Examples, or JSON lines",
    "…: … is not a feature of the schema, which has …": "rename the feature in the log, or leave it out",
    "… has no version … in …, … or …": "give the number of a version that is in one of these",
    "… found in ……": "read the lines before; --repair mends what can be",
    "…: … does not fit a field of type …": "give a value of this type",
    "…: … is a single value and has no field …": "leave the last part of the name out",
    "…, line …: …: …": "correct this line of the config",
    "sampling: negatives_of … is no binary task": "name a binary task",
    "--to_day=…: …": "give a day that the message allows",
    "study: student … must be distilled and have a baseline": "name another student, or give it both",
    "student …: …": "correct what the message names in this student",
}
"""What to do, where the message does not say it itself."""

_REMEDIES_BEGIN = {
    ", expected ": "give ",
    ": expected ": "give ",
    ", needs ": "give ",
    "was trained without: ": "",
    "Correct the day": "correct the day",
}
"""What begins the remedy in a message without a semicolon, and what the page says instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one line of the code may raise."""

    module: str
    line: int
    status: int
    text: str
    """With … in the place of values."""

    @property
    def parts(self) -> tuple[str, str]:
        """What is wrong, and what to do; the second is empty where nobody says it."""
        if self.text in REMEDIES:
            return self.text, REMEDIES[self.text]
        wrong, separator, remedy = self.text.rpartition("; ")
        if separator:
            given = remedy in ("…", "give …")
            return wrong, "do what the message says at its end" if given else remedy
        for begins, verb in _REMEDIES_BEGIN.items():
            if begins in self.text:
                wrong, _, rest = self.text.partition(begins)
                return wrong, verb + rest
        return self.text, ""


def messages() -> Iterator[Message]:
    """Yield every message, in the order of the rooms, their files and lines."""
    trees = {
        path.relative_to(ROOT): ast.parse(path.read_text())
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    }
    statuses = _statuses([node for tree in trees.values() for node in ast.walk(tree)])
    for path, tree in trees.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
        for call in sorted(calls, key=lambda node: node.lineno):
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            text = _text(call.args[0])
            if name in statuses and text.strip("…"):
                yield Message(module=str(path), line=call.lineno, status=statuses[name], text=text)


def _statuses(nodes: list[ast.AST]) -> dict[str, int]:
    """Return the status of each class of errors by its name."""
    found = dict(STATUS)
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    for _ in classes:  # A class may come before its base.
        for node in classes:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in found]
            if bases:
                found.setdefault(node.name, found[bases[0]])
    return found


def _text(node: ast.expr) -> str:
    """Return the text of a string with … in the place of what is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def page() -> str:
    """Return the text of the page."""
    lines, module = [INTRO], ""
    for each in messages():
        if each.module != module:
            module = each.module
            about = (ast.get_docstring(ast.parse((ROOT / module).read_text())) or "").partition("\n\n")[0]
            lines += [f"\n## {module}\n", " ".join(about.split()) + "\n"]
            lines += ["| status | message | what to do |", "|---|---|---|"]
        wrong, remedy = map(_cell, each.parts)
        lines.append(f"| {each.status} | {wrong} | {remedy} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", r"\<").replace("*", r"\*")


if __name__ == "__main__":
    PAGE.write_text(page())
