"""The licences of what tutelage installs, from the packages' own metadata: `python -m tests.licences` lists them."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
COMPATIBLE = {
    *("Apache-2.0", "MIT", "MIT-0", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "BSD", "0BSD", "ISC", "Zlib"),
    *("PSF-2.0", "CC0-1.0", "MPL-2.0"),
}
"""Licences of dependencies that an Apache 2.0 project may have. MPL 2.0 asks for the sources of its own files only."""
WITHOUT_METADATA = {"namex": "Apache-2.0", "polars-hash": "MIT"}
"""Packages whose metadata names no licence, with that of their repository. SECURITY.md lists them."""
_WORDS = (
    (r"apache", "Apache-2.0"),
    (r"mozilla|mpl", "MPL-2.0"),
    (r"python software foundation|matplotlib", "PSF-2.0"),
    (r"\bisc\b", "ISC"),
    (r"bsd", "BSD"),
    (r"\bmit\b", "MIT"),
)
"""Words of a licence's name, as older metadata has it, and the licence. The first that is found counts."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    package: str
    version: str
    expression: str
    """As in SPDX; empty: the metadata names none that is known."""

    @property
    def compatible(self) -> bool:
        """Whether one of the alternatives consists of compatible licences only."""
        alternatives = re.sub(r"[()]", "", self.expression).split(" OR ")
        return any({*each.split(" AND ")} <= COMPATIBLE for each in alternatives)


def licences() -> list[Licence]:
    """Return the licences of the runtime dependencies, and of what they depend on, by name."""
    found: dict[str, Licence] = {}
    todo = [Requirement(text) for text in PROJECT["dependencies"]]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in found:
            package = importlib.metadata.distribution(name)
            expression = _expression(name, package.metadata)
            found[name] = Licence(package=name, version=package.version, expression=expression)
            todo += _required(package)
    return [found[name] for name in sorted(found)]


def _required(package: importlib.metadata.Distribution) -> Iterator[Requirement]:
    for text in package.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _expression(name: str, metadata: importlib.metadata.PackageMetadata) -> str:
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    # A `License` of several lines is the whole text; its name is the first of them.
    for text in (*classifiers, (metadata.get("License") or "").strip().partition("\n")[0]):
        for words, licence in _WORDS:
            if re.search(words, text.rpartition(" :: ")[2].lower()):
                return licence
    return WITHOUT_METADATA.get(name, "")


if __name__ == "__main__":
    for each in licences():
        print(f"{each.package:28}{each.version:18}{each.expression or 'unknown'}")
