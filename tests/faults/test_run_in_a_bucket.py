"""A run and the commands after it in a workdir in an object store: it holds what a workdir on the disk holds."""

import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from tests import s3
from tests.faults.five_days import FIRST_DAY
from tests.faults.forked import CONFIG, Command
from tests.same import assert_same
from tests.stored import download, names, use_server

pytestmark = pytest.mark.end_to_end
BIN = Path(sys.executable).parent
DAYS = ["--start_day=2026-01-01", "--end_day=2026-01-03"]


@dataclass(frozen=True, kw_only=True)
class Workdirs:
    """The same run, on the disk and in a bucket."""

    local: Path
    url: str
    endpoint: str
    """Of the server."""
    scratch: Path

    def act(self, command: str) -> None:
        """Run a command in both workdirs at a time."""
        first = partial(use_server, self.endpoint)
        flags = f"{command} --scratch_dir={self.scratch}"
        both = [Command(command, self.local), Command(flags, self.url, first=first)]
        for one in both:
            list(one.commits())
        assert [one.end() for one in both] == [(0, "")] * 2, command

    def assert_same(self, folder: Path) -> None:
        assert_same(self.local, download(self.endpoint, self.url, folder))
        assert not list(self.scratch.glob("tutelage-*"))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Workdirs:
    bucket, root = f"bucket-{uuid.uuid4().hex}", tmp_path_factory.mktemp("workdirs")
    s3.client(s3_endpoint).create_bucket(Bucket=bucket)
    made = Workdirs(
        local=root / "w", url=f"s3://{bucket}/models/w", endpoint=s3_endpoint, scratch=root / "scratch"
    )
    made.scratch.mkdir()
    runs = [
        subprocess.Popen(
            [BIN / "tutelage-run", f"--config={CONFIG}", *DAYS, f"--workdir={workdir}", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **s3.environment(s3_endpoint)},
        )
        for workdir, more in ((made.local, []), (made.url, [f"--scratch_dir={made.scratch}"]))
    ]
    for run in runs:
        out, err = run.communicate(timeout=900)
        assert (run.returncode, err) == (0, ""), out + err
    return made


def test_a_run_leaves_in_a_bucket_what_it_leaves_on_the_disk(workdirs: Workdirs, tmp_path: Path) -> None:
    workdirs.assert_same(tmp_path)
    found = set(names(workdirs.endpoint, workdirs.url))
    assert {
        "config.json",
        "report/index.html",
        "report/tensorboard/control/events.out.tfevents.2026-01-03",
        "export/models.config",
        "export/snapshot/2026010301/saved_model.pb",
        "export/snapshot/2026010301/assets.extra/golden.parquet",
        "students/snapshot/config.json",
        "teacher/checkpoints/2026-01-03/state.json",
    } <= found
    assert not [name for name in found if "within-" in name or "staging" in name]


def test_commands_after_it_do_the_same(workdirs: Workdirs, tmp_path: Path) -> None:
    user = pl.read_delta(str(workdirs.local / "lake/interactions"))["user_id"][0]
    for command in (
        "status",
        "verify",
        "export --model=control --export=all",
        "export --model=control --rollback --reason=slow",
        f"rollback --to_day={FIRST_DAY}",
        f"forget --user_id={user}",
        "teach --end_day=2026-01-02",
        "prune --keep_days=1",
        "report",
        "verify",
    ):
        workdirs.act(f"{command} {' '.join(DAYS)}" if "day" not in command else command)
    workdirs.assert_same(tmp_path)
    log = "publication/control/log.jsonl"
    decided = [(workdirs.local / log).read_text(), (tmp_path / log).read_text()]
    assert [text.count('"action": "rollback", "version": 2026010201') for text in decided] == [1, 1]
