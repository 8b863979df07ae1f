"""Print figures of the code's structure: size and long functions per room, and the imports between files.

python -m benchmarks.structure [--against REV]
"""

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "models", "trainers", "export", "launch")
"""In the order of the layers: a room may import the rooms before it. See tests/test_imports.py for the exact rules."""
MAX_LINES, MAX_PARAMETERS = 60, 6
HUBS = ("launch.session", "trainers.run")
WIDTH = 44


def modules(root: Path) -> dict[str, ast.Module]:
    """Parse every file of the rooms, by dotted name. A package has the name of its folder."""
    paths = sorted(path for room in ROOMS for path in (root / room).rglob("*.py"))
    names = [
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]
    return {name: ast.parse(path.read_text()) for name, path in zip(names, paths, strict=True)}


def imports(name: str, trees: dict[str, ast.Module]) -> set[str]:
    """Return the modules of the project that a module imports, in functions too."""
    found: set[str] = set()
    for node in ast.walk(trees[name]):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in (target.removeprefix("tutelage.") for target in targets):
            # What is imported from a module is the module itself, or something in it.
            found.add(target if target in trees else target.rpartition(".")[0])
    return (found & trees.keys()) - {name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through other modules."""
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    groups = {
        tuple(sorted(m for m in reach[name] if name in reach[m])) for name in graph if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def measure(root: Path) -> dict[str, str]:
    """Return every figure of a tree, by its label."""
    trees = modules(root)
    graph = {name: imports(name, trees) for name in trees}
    figures: dict[str, str] = {}
    for room in ROOMS:
        here = [name for name in trees if name.partition(".")[0] == room]
        lines = sum(len(path.read_text().splitlines()) for path in (root / room).rglob("*.py"))
        nodes = [node for name in here for node in ast.walk(trees[name])]
        functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        long = [f for f in functions if (f.end_lineno or f.lineno) - f.lineno + 1 > MAX_LINES]
        figures[f"{room}: files"] = str(len(here))
        figures[f"{room}: lines"] = f"{lines:,}"
        figures[f"{room}: functions over {MAX_LINES} lines"] = str(len(long))
        figures[f"{room}: functions over {MAX_PARAMETERS} parameters"] = str(
            sum(_parameters(f) > MAX_PARAMETERS for f in functions)
        )
    edges = [(a.partition(".")[0], b.partition(".")[0]) for a, targets in graph.items() for b in targets]
    for start in ROOMS:
        for end in ROOMS:
            if start != end and (count := edges.count((start, end))):
                wrong = " (the wrong way)" if ROOMS.index(end) > ROOMS.index(start) else ""
                figures[f"imports: {start} of {end}{wrong}"] = str(count)
    figures["imports the wrong way"] = str(sum(ROOMS.index(b) > ROOMS.index(a) for a, b in edges))
    figures["imports between files of launch"] = str(edges.count(("launch", "launch")))
    for hub in HUBS:
        figures[f"files that import {hub}"] = str(sum(hub in targets for targets in graph.values()))
    figures["circles of imports"] = "; ".join(" ".join(group) for group in circles(graph)) or "none"
    return figures


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Print figures of the code's structure.")
    parser.add_argument("--against", metavar="REV", help="a git revision to print beside the working tree")
    revision = parser.parse_args().against
    columns = {"now": measure(ROOT)}
    if revision:
        packed = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, capture_output=True, check=True
        ).stdout
        with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
            columns = {revision: measure(Path(folder)), **columns}
    print(f"{'':{WIDTH}}" + "".join(f"{title:>14}" for title in columns))
    for label in dict.fromkeys(label for figures in columns.values() for label in figures):
        print(f"{label:{WIDTH}}" + "".join(f"{figures.get(label, '0'):>14}" for figures in columns.values()))


if __name__ == "__main__":
    main()
