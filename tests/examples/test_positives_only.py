"""A log of positives only becomes served versions: a drafted config, a dry run, a run, and no gate is loosened."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.reading_logs import EVENTS, write_reading_logs
from tutelage.launch.config import load

pytestmark = pytest.mark.end_to_end
EXAMPLE = Path(__file__).parents[2] / "examples/positives_only.py"


def _run(name: str, folder: Path, *flags: str) -> str:
    code = f"import sys; sys.argv = ['tutelage-{name}', *{list(flags)!r}]\nfrom tutelage.launch import commands\n"
    command = [sys.executable, "-c", f"{code}commands.{name}()"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_log_of_positives_is_served_without_a_line_of_its_config_written_by_hand(tmp_path: Path) -> None:
    write_reading_logs(tmp_path / "logs")
    _run("init", tmp_path, "--raw_dir=logs", "--out=positives_only.py")
    assert (tmp_path / "positives_only.py").read_text() == EXAMPLE.read_text()
    flags = ["--config=positives_only.py", "--raw_dir=logs", "--workdir=W"]
    assert "Nothing to correct was found." in _run("materialize", tmp_path, *flags, "--dry_run")
    assert not (tmp_path / "W").exists()
    printed = _run("run", tmp_path, *flags)
    assert f"6 days, {EVENTS:,} rows in + {4 * EVENTS:,} negatives sampled = {5 * EVENTS:,} kept" in printed

    interactions = pl.read_delta(str(tmp_path / "W/lake/interactions"))
    assert interactions["day"].dt.weekday().unique().to_list() == [1]
    assert (interactions["interaction"].sum(), interactions["reader"].min()) == (EVENTS, -150)
    events = pl.read_csv(tmp_path / "logs/events.csv")
    assert interactions["like_or_share"].sum() == events["event"].is_in(["like", "share"]).sum()
    articles = pl.read_csv(tmp_path / "logs/articles.csv")
    joined = interactions.join(articles, on="article", suffix="_there")
    assert (joined.height, (joined["topic"] == joined["topic_there"]).all()) == (5 * EVENTS, True)

    metrics = pl.read_delta(str(tmp_path / "W/lake/metrics"))
    ahead = metrics.filter(basis="day_ahead", metric="auc", task="interaction", slice="")
    last = ahead.filter(pl.col("day") == pl.col("day").max())
    assert last.height == 3
    assert last["value"].min() > 0.65  # few articles have most of the readers
    for student in ("control", "auxiliary"):
        assert len(list((tmp_path / "W/export" / student).glob("20260209*/saved_model.pb"))) == 1
    assert not list((tmp_path / "W").glob("rejected/*/*"))


def test_no_gate_of_the_example_is_loosened() -> None:
    default = runpy.run_path(str(EXAMPLE))["experiment"](smoke=False)
    assert default == load(str(EXAMPLE))
    text = EXAMPLE.read_text()
    assert not {"gate", "quality", "false_alarms_per_year"} & set(text.replace("=", " ").split())
