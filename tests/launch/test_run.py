"""The nightly graph, where it fails before anything is there."""

from pathlib import Path

import pytest

from tests.launch import small
from tutelage.launch.run import run
from tutelage.pipeline.errors import UserError


def test_a_run_that_fails_before_any_day_is_there_does_not_tie_the_workdir_to_its_config(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="raw"):
        run(small.open_session(tmp_path / "w"))
    corrected = small.open_session(
        tmp_path / "w",
        config=small.GROWN,
        overrides=("teacher.model.backbone.hidden=3", "training.batch_size=7"),
    )
    assert corrected.run.training.batch_size == 7
    assert "age" in corrected.run.lake.interactions.scan().collect_schema().names()
