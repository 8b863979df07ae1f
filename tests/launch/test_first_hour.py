"""tutelage-init and tutelage-materialize --dry_run as commands: what they print and write, and their statuses."""

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.reading_logs import write_reading_logs
from tutelage.launch.actions.init import init
from tutelage.pipeline.errors import UserError


def _run(name: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.argv = ['tutelage-{name}', *{list(flags)!r}]\n"
        f"from tutelage.launch.commands import {name}\n{name}()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=folder
    )


def _listing(folder: Path) -> Mapping[str, str]:
    """Everything below a folder, with a hash of each file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the logs of readers, and the config that tutelage-init writes for them."""
    folder = tmp_path_factory.mktemp("first")
    write_reading_logs(folder / "logs")
    done = _run("init", folder, "--raw_dir=logs", "--out=my_config.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "Read 9,000 rows of events.csv (all).\n"
        "2026-01-05 to 2026-02-15: 7,500 rows a week with sampled negatives.\n"
        "guessed: each row is a positive: no column looks like a label, so negatives are sampled\n"
        "my_config.py: written; look at it, then at what it makes of the logs:\n"
        "  tutelage-materialize --config=my_config.py --raw_dir=logs --workdir=W --dry_run\n"
        "  tutelage-run --config=my_config.py --raw_dir=logs --workdir=W\n"
    )
    return folder


def test_a_dry_run_prints_what_a_run_would_keep_and_writes_nothing(drafted: Path) -> None:
    before = _listing(drafted)
    flags = ["--config=my_config.py", "--raw_dir=logs", "--workdir=W", "--dry_run"]
    done = _run("materialize", drafted, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    first, head, *weeks, sampled, last = done.stdout.splitlines()
    assert first == "read everything: 9,000 rows in = 9,000 kept + 0 dropped"
    assert head.split() == ["day", "rows", "interaction", "like_or_share", "(means)"]
    assert weeks[0].split()[0] == "2026-01-05"
    assert (len(weeks), weeks[-1].split()[0]) == (6, "2026-02-09")
    assert sum(int(week.split()[1].replace(",", "")) for week in weeks) == 9_000
    assert {week.split()[2] for week in weeks} == {"1"}
    assert sampled == "a run adds 4 sampled negatives for each positive"
    assert last == "Nothing to correct was found. Nothing was written."
    assert _listing(drafted) == before


def test_what_a_dry_run_finds_gives_status_2_and_a_mistake_1(drafted: Path, tmp_path: Path) -> None:
    lines = (drafted / "logs/events.csv").read_text().splitlines()
    bad = [line.rsplit(",", 1)[0] + ",soon\x1b[2J" for line in lines[1:2_000]]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/events.csv").write_text("\n".join([lines[0], *bad, *lines[2_000:], "1,2"]) + "\n")
    (tmp_path / "logs/articles.csv").write_text("article,topic,words\n1000,art,7\n")
    flags = [f"--config={drafted}/my_config.py", "--raw_dir=logs", f"--workdir={tmp_path}/W", "--dry_run"]
    before = _listing(tmp_path)
    done = _run("materialize", tmp_path, *flags, "--start_day=2026-01-05", "--end_day=2026-03-01")
    assert done.returncode == 2
    assert (
        done.stderr
        == "tutelage-materialize: things to correct: 4; change the config or the data, and look again\n"
    )
    text = done.stdout
    assert "9,001 rows in = 7,001 kept + 2,000 dropped" in text
    assert r"bad_time                        1,999  as in when 'soon\x1b[2J'" in text
    assert "\x1b" not in text
    assert "bad_row                             1\n" in text
    assert "correct: no rows on 2026-01-05, 2026-02-16 to 2026-02-23, and no others" in text
    assert "correct: 22% of the rows of these days are dropped: bad_time, bad_row" in text
    assert "correct: topic is null in all 7,001 rows" in text
    assert "correct: words is null in all 7,001 rows" in text
    assert len(text.splitlines()) < 25
    done = _run("materialize", tmp_path, *flags, "--set=source.event_time=then")
    assert done.returncode == 1
    assert "no column 'then'" in done.stderr
    assert _listing(tmp_path) == before


def test_a_config_that_is_there_is_not_replaced_and_the_logs_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("mine")
    with pytest.raises(
        UserError, match=r"my\.py is there already, and stays as it is; remove it, or give another name"
    ):
        init(raw_dir=str(tmp_path / "nowhere"), out=str(tmp_path / "my.py"))
    with pytest.raises(UserError, match=r"a config is a \.py file"):
        init(raw_dir=str(tmp_path / "nowhere"), out=str(tmp_path / "my.yaml"))
    assert (tmp_path / "my.py").read_text() == "mine"
