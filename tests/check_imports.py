"""Check that a Bazel target declares all that its modules import: the main of every `*_imports` test.

Bazel puts a target's own files and those of its dependencies into one folder, from which this runs. Every import
of the project in any of them, in functions too, must find a file there. Nothing is imported, so it takes a moment.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("pipeline", "models", "trainers", "export", "launch")


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every import in `source` that may run; `name` is "" in `import module`."""
    tree = ast.parse(source)
    blocks = (node for node in ast.walk(tree) if isinstance(node, ast.If) and _for_types(node.test))
    # A type checker has the whole tree.
    skipped = {node for block in blocks for each in block.body for node in ast.walk(each)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def _for_types(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def missing(root: Path) -> list[str]:
    """Return the imports of the modules below `root` (the folder of the rooms) that find no file there."""
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in (*ROOMS, "tests")
        for path in (root / folder).rglob("*.py")
    }
    folders = {name.rpartition(".")[0] for name in modules} | {"tutelage", "tests"}
    found = []
    for importer, path in modules.items():
        # A folder of tests uses some of the helpers only; that it has what these need shows when it is collected.
        if (
            importer.startswith("tests.")
            and importer.count(".") == 1
            and not importer.startswith("tests.test_")
        ):
            continue
        for module, name in imports(path.read_text()):
            if module.split(".")[0] not in ("tutelage", "tests"):
                continue
            target = module.removeprefix("tutelage.")
            whole = f"{target}.{name}" if target != "tutelage" else name
            if whole in modules or (target in modules and not _is_module(target, name, modules)):
                continue
            if not name and target in folders:
                continue
            found.append(f"{importer} imports {module}{f'.{name}' if name else ''}")
    return sorted(found)


def _is_module(package: str, name: str, modules: dict[str, Path]) -> bool:
    """Return whether `name` must be a module of `package`: its __init__.py does not mention it."""
    path = modules[package]
    return path.name == "__init__.py" and bool(name) and name not in path.read_text()


def main() -> int:
    undeclared = missing(Path.cwd())
    for line in undeclared:
        print(
            f"{line}, which no declared dependency holds: add it to deps in the BUILD file", file=sys.stderr
        )
    return bool(undeclared)


if __name__ == "__main__":
    sys.exit(main())
