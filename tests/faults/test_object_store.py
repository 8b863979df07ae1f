"""A workdir in an object store under faults: killed processes, two runs at once, a server that fails now and then."""

import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import pytest

from tests import s3
from tests.faults.forked import CONFIG, STEPS, Command, Undisturbed, instant
from tests.faulty import FAULTS, faulty
from tests.same import assert_same, lost_and_doubled
from tests.stored import download, upload, use_server
from tutelage.pipeline.io.leases import holders
from tutelage.pipeline.io.paths import as_path, remote

pytestmark = pytest.mark.cluster
BIN = Path(sys.executable).parent
KILLS = {
    "materialize": 6,
    "teach": 6,
    "export teacher": 4,
    "label": 4,
    **{step: 4 for step in STEPS if step.startswith("train ")},
    **{step: 2 for step in STEPS if step.startswith("export ") and step != "export teacher"},
    "report": 2,
}
"""How often each step is killed: 40 times in all."""


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    s3.client(s3_endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


def _started(step: str, url: str, endpoint: str, scratch: Path) -> Command:
    first = partial(use_server, endpoint)
    return Command(f"{STEPS[step]} --scratch_dir={scratch}", url, first=first)


def _complete(step: str, url: str, endpoint: str, scratch: Path) -> list[float]:
    """Run a step to its end; return the seconds until each of its commits, and until its end."""
    command = _started(step, url, endpoint, scratch)
    seconds = list(command.commits())
    code, err = command.end()
    # A lease of the process that was killed is taken over.
    others = [line for line in err.splitlines() if "took over from process" not in line]
    assert (code, others) == (0, []), f"{step}: {code}, {err}"
    return [*seconds, time.monotonic() - command.started]


def _kill(step: str, url: str, endpoint: str, scratch: Path, at: float) -> bool:
    """Kill a step after `at` seconds; return whether that was before its end."""
    command = _started(step, url, endpoint, scratch)
    time.sleep(max(0.0, at - (time.monotonic() - command.started)))
    command.process.kill()
    list(command.commits())
    code, err = command.end()
    assert code in (0, -9), err
    return code != 0


def test_a_step_killed_in_a_bucket_at_forty_instants_and_run_again_ends_the_same(
    undisturbed: Undisturbed,
    bucket: str,
    s3_endpoint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kills = 0
    for step, wanted in KILLS.items():
        chance, scratch = random.Random(step), tmp_path / "scratch"
        upload(s3_endpoint, undisturbed.before[step], url := f"{bucket}/{step.replace(' ', '_')}")
        seconds = _complete(step, url, s3_endpoint, scratch)
        of_step, tried = 0, 0
        while of_step < wanted:
            assert tried < 3 * wanted + 10, "too many kills came after its end"
            tried += 1
            upload(s3_endpoint, undisturbed.before[step], again := f"{url}-{tried}")
            cut_short = _kill(
                step, again, s3_endpoint, scratch, instant(seconds, chance, near=tried % 2 == 0)
            )
            shutil.rmtree(scratch, ignore_errors=True)  # Nothing of it is needed.
            _complete(step, again, s3_endpoint, scratch)
            found = download(s3_endpoint, again, tmp_path / again.rpartition("/")[2])
            assert lost_and_doubled(undisturbed.after[step], found) == (0, 0)
            assert_same(undisturbed.after[step], found)
            shutil.rmtree(found)
            of_step += cut_short
        kills += of_step
        with capsys.disabled():
            print(f"\n{kills} kills, {step}", end="", flush=True)
    assert kills == 40


def _run(workdir: Path | str, endpoint: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / "tutelage-run", f"--config={CONFIG}", f"--workdir={workdir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **s3.environment(endpoint)},
    )


@pytest.fixture
def local(tmp_path: Path, s3_endpoint: str) -> Path:
    run = _run(tmp_path / "local", s3_endpoint)
    out, err = run.communicate(timeout=900)
    assert (run.returncode, err) == (0, ""), out + err
    return tmp_path / "local"


def test_of_two_runs_at_once_one_is_told_who_works(
    local: Path, s3: str, s3_endpoint: str, tmp_path: Path
) -> None:
    url = f"{s3}/w"
    one = _run(url, s3_endpoint)
    lock = remote(as_path(url) / ".lock")
    assert lock
    while not holders(lock):
        assert one.poll() is None, one.communicate()
        time.sleep(0.1)
    other = _run(url, s3_endpoint)
    out, err = other.communicate(timeout=900)
    assert other.returncode == 75, out + err
    assert f"another tutelage-run is at work in {url}; wait for it, or stop it (process {one.pid} on " in err
    assert err.count("\n") == 1
    out, err = one.communicate(timeout=900)
    assert (one.returncode, err) == (0, ""), out + err
    assert_same(local, download(s3_endpoint, url, tmp_path / "found"))


def test_a_store_that_fails_now_and_then_changes_nothing(
    local: Path, bucket: str, s3_endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/w"
    with faulty(s3_endpoint, share=0.05) as proxy:
        run = _run(url, proxy.endpoint)
        out, err = run.communicate(timeout=1_800)
        counts = proxy.counts()
    with capsys.disabled():
        print(f"\n{counts}", end="", flush=True)
    assert run.returncode == 0, out + err
    assert all(counts.get(fault) for fault in FAULTS)
    assert_same(local, download(s3_endpoint, url, tmp_path / "found"))
