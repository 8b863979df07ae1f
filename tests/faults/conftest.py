"""The run that nothing disturbs, which the fault tests compare with."""

import shutil

import pytest

from tests.faults.forked import STEPS, Undisturbed, complete


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    root = tmp_path_factory.mktemp("undisturbed")
    done = Undisturbed()
    workdir = root / "nothing"
    workdir.mkdir()
    for step in STEPS:
        done.before[step], workdir = workdir, root / step.replace(" ", "_")
        done.after[step] = shutil.copytree(done.before[step], workdir)
        complete(step, workdir)
    return done
