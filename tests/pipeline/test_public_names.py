"""What `tutelage.pipeline` exports. A name is added or taken away here on purpose."""

import subprocess
import sys

import pytest

from tutelage import pipeline

NAMES = [
    "Check",
    "DataFile",
    "Downsampling",
    "Feature",
    "Files",
    "Growth",
    "History",
    "JoinedLabels",
    "KuaiRand",
    "LabelPartition",
    "LabelRequest",
    "Lake",
    "MovieLens",
    "QualityConfig",
    "RawFile",
    "Schema",
    "Side",
    "SoftLabelStore",
    "Source",
    "Synthetic",
    "Table",
    "Task",
    "Unit",
    "UserError",
    "Verdict",
    "labels_before_update",
    "labels_by_snapshot",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_it_says(name: str) -> None:
    assert getattr(pipeline, name).__name__ == name


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"^module 'tutelage.pipeline' has no attribute 'Lakes'$"):
        _ = pipeline.Lakes


def test_no_public_name_loads_tensorflow() -> None:
    code = (
        "import sys\nfrom tutelage import pipeline\n"
        "print({'tensorflow', 'apache_beam', 'polars'} & sys.modules.keys())\n"
        "for name in pipeline.__all__: getattr(pipeline, name)\n"
        "print({'tensorflow', 'apache_beam'} & sys.modules.keys())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["set()", "set()"]
