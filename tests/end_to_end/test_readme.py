"""Every command of README.md and docs/ is run here, on as little data as it takes; one that is not known here fails."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars
import pytest

from tests.own_events import write_logs
from tutelage.launch.config import load
from tutelage.models import MLP, CrossEntropy, Distillation, ModelConfig, distil
from tutelage.pipeline import Feature, Growth
from tutelage.trainers import StudentConfig, TeacherConfig

pytestmark = pytest.mark.end_to_end
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}
TEXT = "\n".join([README, *(PAGES[name] for name in sorted(PAGES))])
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
NAMES = {
    name.__name__: name
    for name in (MLP, CrossEntropy, Distillation, ModelConfig, StudentConfig, TeacherConfig, distil)
}
ROWS = re.findall(r"^\| (`tutelage-.*) \|$", README, re.MULTILINE)  # of the table of commands


def _blocks(language: str, text: str = TEXT) -> list[str]:
    """The fenced blocks of a language; those of a list are indented."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)


def _commands(language: str) -> list[str]:
    """Of the fenced blocks of a language, without their comments."""
    text = "".join(_blocks(language))
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


COMMANDS = [*_commands("sh"), *_commands("cron")]


def _shell(command: str, folder: Path) -> str:
    """What a command prints that is run in `folder` and ends well; there, `.venv` is that of these tests."""
    (folder / ".venv").mkdir(parents=True, exist_ok=True)
    if not (folder / ".venv/bin").exists():
        (folder / ".venv/bin").symlink_to(BIN)
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def _recipe(command: str) -> list[str]:
    """What `make TARGET` would run."""
    # These tests may be run by a make, whose own flags are not for this one.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    words = [*command.split(), "--dry-run"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _only(config: str, *names: str) -> str:
    """Flags that leave nothing to learn for the other students: a process for each takes most of the time."""
    others = (student.name for student in load(config).students if student.name not in names)
    return " ".join(f"--set=students.{name}.first_day=9999-01-01" for name in others)


class Demo(NamedTuple):
    folder: Path
    printed: str
    flags: str
    """Of any command that goes on in the same workdir."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The command of `make demo`, for a day of the smoke size and two students (test_smoke.py has it all)."""
    folder = tmp_path_factory.mktemp("demo")
    (command,) = (line for line in _recipe("make demo") if line.startswith(".venv/bin/tutelage-"))
    program, *flags = f"{command} --smoke {_only('synthetic', 'control', 'auxiliary')}".split()
    printed = _shell(" ".join([program, *flags, "--end_day=2026-01-01"]), folder)
    return Demo(folder, printed, " ".join(flags))


def _demo(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    demo: Demo = request.getfixturevalue("demo")
    table = r"^teacher .*^control .*^auxiliary "
    assert re.search(table, demo.printed, re.DOTALL | re.MULTILINE)
    path = re.search(r"^Report: (.*)$", demo.printed, re.MULTILINE)
    assert path
    assert Path(path[1]) == demo.folder / "demo/report/index.html"
    assert Path(path[1]).is_file()


def _make(line: str, folder: Path, request: pytest.FixtureRequest, *, runs: tuple[str, ...]) -> None:
    recipe = "\n".join(_recipe(line))
    for start in runs:
        assert re.search(rf"^\.venv/bin/python {start}", recipe, re.MULTILINE), recipe


def _kuairand(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    (folder / "KuaiRand-Pure").symlink_to(request.getfixturevalue("shared_data") / "KuaiRand-Pure")
    students = _only("kuairand", "control", "auxiliary")
    printed = _shell(f"{line} --smoke --end_day=2022-04-25 {students}", folder)
    kept = int(re.search(r" = ([\d,]+) kept", printed)[1].replace(",", ""))  # type: ignore[index]
    assert kept > 10_000
    (read,) = re.findall(r"`(polars\.read_delta\(.*?\))`", PAGES["tables"])
    request.getfixturevalue("monkeypatch").chdir(folder)
    interactions = eval(read, {"polars": polars})
    assert interactions.height == kept
    assert {"day", "example_id", "event_time_us", "user_id", "click"} < set(interactions.columns)


def _study(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    (folder / "KuaiRand-Pure").symlink_to(request.getfixturevalue("shared_data") / "KuaiRand-Pure")
    # test_study.py has more of it.
    small = line.replace("--seeds=5", "--seeds=1 --studies=4 --smoke")
    printed = _shell(small, folder)
    assert "1 of 1: base-1, " in printed
    for name in re.findall(
        r"`S/(study/results.html)`, `(results.md)` and\s+the Delta tables `(\w+)` and `(\w+)`",
        PAGES["distillation"],
    )[0]:
        assert (folder / "S/study" / name.removeprefix("study/")).exists()


def _own_events(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    (folder / "examples").symlink_to(ROOT / "examples")
    write_logs(folder / "my_logs")
    printed = _shell(f"{line} --end_day=2026-01-02", folder)
    assert (
        "materialize: 2 days, 901 rows in = 600 kept + 301 dropped (300 outside_days, 1 users_bad_time)"
        in printed
    )
    assert re.search(r"^auxiliary: trained on 2026-01-01 to 2026-01-02, 600 examples", printed, re.MULTILINE)
    interactions = polars.read_delta(str(folder / "W2/lake/interactions"))
    assert interactions["user_id"].min() == 2**53 + 1
    assert interactions["click"].sum() == 120
    countries = interactions.group_by("day").agg(polars.col("country").unique()).sort("day")["country"]
    assert countries.to_list() == [["DE"], ["FR"]]  # each as it was known then
    assert (folder / "W2/export/auxiliary/2026010201").is_dir()


@pytest.fixture(scope="module")
def first_hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with logs, in which the three commands of the first hour follow each other."""
    folder = tmp_path_factory.mktemp("first_hour")
    write_logs(folder / "my_logs")
    return folder


def _first_hour(line: str, folder: Path, request: pytest.FixtureRequest, *, says: str, makes: str) -> None:
    folder = request.getfixturevalue("first_hour")
    before = set(folder.rglob("*"))
    assert re.search(says, _shell(line, folder), re.MULTILINE)
    made = {path.relative_to(folder).parts[0] for path in set(folder.rglob("*")) - before}
    assert made - {".venv"} == ({makes} if makes else set())


def _nightly(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    *when, command = line.split(maxsplit=5)
    assert len(when) == 5
    assert all(re.fullmatch(r"[\d*,/-]+", field) for field in when)
    assert "%" not in command  # cron ends the command there
    # Absolute paths are put below `folder`. The world begins yesterday, and only the teacher learns it.
    home = re.match(r"cd /(\S+) && ", command)
    assert home
    command = re.sub(r"(?<=[ =])/", f"{folder}/", command).replace("=my_config.py", "=synthetic")
    yesterday = _yesterday()
    world = f"--start_day=yesterday --set=source.first_day={yesterday}"
    printed = _shell(f"{command} --smoke {world} {_only('synthetic')}", folder / home[1])
    trained = re.search(r"^teacher: trained on (\S+), 5,000 examples", printed, re.MULTILINE)
    assert trained
    assert trained[1] in (str(yesterday), str(_yesterday()))  # midnight may have passed
    assert (folder / "srv/work/lake").is_dir()


def _yesterday() -> date:
    return datetime.now(UTC).date() - timedelta(days=1)


def _begins(line: str, start: str) -> bool:
    return f"{line} ".startswith(f"{start} ")


# How a command of README.md is tested, by the words it begins with.
def _bench_training(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    (command,) = (line for line in _recipe(line) if "benchmarks" in line)
    # Through a link, Python would not find the environment that it is of.
    command = command.replace(".venv/bin/python", sys.executable)
    size = "--rows_per_day=2000 --batch_size=256 --models=teacher"
    printed = _shell(f"PYTHONPATH={ROOT} {command} {size}", folder)
    assert re.match(r"teacher: [\d,]+ examples/s at batch 256, [\d.]+% of its time waiting", printed)


def _bench_streaming(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    (command,) = (line for line in _recipe(line) if "benchmarks" in line)
    command = command.replace(".venv/bin/python", sys.executable)
    size = "--rows=20000 --file_rows=8000 --chunk_rows=8192 --ids=100"
    printed = _shell(f"PYTHONPATH={ROOT} {command} {size}", folder)
    assert "a day of 20,000 rows in chunks of 8,192" in printed
    assert re.search(r"^student: [\d,]+ examples/s, [\d.]+% of its time waiting", printed, re.MULTILINE)


def _bench_resume(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    (command,) = (line for line in _recipe(line) if "benchmarks" in line)
    command = command.replace(".venv/bin/python", sys.executable)
    printed = _shell(f"PYTHONPATH={ROOT} {command} --rows_per_day=2000 --batch_size=100", folder)
    assert "teacher: stopped by SIGTERM after 1,000 of the 2,000 rows of 2026-01-02" in printed
    assert re.search(r"^a day of 2,000 rows, .*\nresume: [\d.]+ s, beyond ", printed, re.MULTILINE)


def _bench_serving(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    (command,) = (line for line in _recipe(line) if "benchmarks" in line)
    command = command.replace(".venv/bin/python", sys.executable)
    printed = _shell(f"PYTHONPATH={ROOT} {command} --calls=5", folder)
    assert re.search(r"^student, LiteRT( +[\d.]+){6}$", printed, re.MULTILINE)
    assert "At 1,000 candidates" in printed


def _bench_sixty_days(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    run, figures = (line for line in _recipe(line) if "sixty_days" in line)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    # Of the sixty days one, and none of the students.
    _shell(f"{run} --end_day=2026-01-01 {_only(str(ROOT / 'benchmarks/sixty_days.py'))}", folder)
    printed = _shell(figures.replace(".venv/bin/python", sys.executable), folder)
    assert re.search(r"^truth, auc +0\.79\d\d\nteacher, auc +0\.\d{4}$", printed, re.MULTILINE)
    assert re.search(r"^teacher, checkpoint, MB +\d+\.\d\d$", printed, re.MULTILINE)
    assert re.search(r"^video_id \(2,499 rows\), ids_evicted +0$", printed, re.MULTILINE)


def _bench_days(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    (command,) = (line for line in _recipe(line) if "benchmarks" in line)
    command = command.replace(".venv/bin/python", sys.executable)
    printed = _shell(f"PYTHONPATH={ROOT} {command} --days=2 --models=4", folder)
    assert re.search(r"^materialise all, per day +[\d.]+ \([\d.]+\)$", printed, re.MULTILINE)


def _bench_gates(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    (command,) = (line for line in _recipe(line) if "benchmarks" in line)
    command = command.replace(".venv/bin/python", sys.executable)
    size = "--parts=false_alarms --worlds=500_half --days=2"
    printed = _shell(f"PYTHONPATH={ROOT} {command} {size}", folder)
    assert re.search(r"^500_half_2_days +2 +\d\d\.\d\d% +0 +0 +0 +0\n0 false alarms", printed, re.MULTILINE)


@pytest.fixture(scope="module")
def served(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo a day later, in a folder of its own: two versions of a student."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(demo.folder / "demo", folder / "demo")
    printed = _shell(f".venv/bin/tutelage-run {demo.flags} --end_day=2026-01-02", folder)
    return Demo(folder, printed, demo.flags)


def _decide(line: str, folder: Path, request: pytest.FixtureRequest, *, says: str) -> None:
    demo: Demo = request.getfixturevalue("served")
    asked = line.replace("2026010801", "2026010201").replace("/tmp/served", str(demo.folder / "mirrored"))
    assert says in _shell(f"{asked} {demo.flags}", demo.folder)


def _watch(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    demo: Demo = request.getfixturevalue("demo")
    page = PAGES["operations"]
    state = json.loads(_shell(f"{line.replace('/tmp', str(folder))} {demo.flags}", demo.folder))
    names = {*state, *state["days"], *state["models"][0]} - {"model", "last_rows", "last_seconds"}
    assert {name for name in names if f"`{name}`" not in page} == set()
    gauges = re.findall(r"^# TYPE (\w+) gauge$", (folder / "tutelage.prom").read_text(), re.MULTILINE)
    assert gauges
    assert {name for name in gauges if f"`{name}`" not in page} == set()


_EXPORT = ".venv/bin/tutelage-export --config=synthetic --workdir=demo --model=auxiliary"

HOW: dict[str, Callable[[str, Path, pytest.FixtureRequest], None]] = {
    "make demo": _demo,
    "make test": partial(_make, runs=("-m ruff check", "-m ruff format .*--check", "-m mypy", "-m pytest")),
    ".venv/bin/tutelage-run --config=kuairand": _kuairand,
    ".venv/bin/tutelage-study --config=kuairand": _study,
    ".venv/bin/tutelage-init": partial(_first_hour, says="Read 900 rows of events/*", makes="my_config.py"),
    ".venv/bin/tutelage-materialize --config=my_config.py": partial(
        _first_hour, says="^Nothing to correct was found", makes=""
    ),
    ".venv/bin/tutelage-run --config=my_config.py": partial(
        _first_hour, says="^auxiliary: trained until 2026-01-03", makes="W2"
    ),
    ".venv/bin/tutelage-run --config=examples/own_events.py": _own_events,
    "0 3 * * * cd": _nightly,
    # In this order: the newest is retired, comes back, and is copied.
    f"{_EXPORT} --rollback": partial(_decide, says="retired/auxiliary/2026010201"),
    f"{_EXPORT} --promote=2026010801": partial(_decide, says="export/auxiliary/2026010201"),
    f"{_EXPORT} --mirror=file:///tmp/served/auxiliary": partial(_decide, says="shows 2026010101, 2026010201"),
    ".venv/bin/tutelage-status --config=synthetic": _watch,
    ".venv/bin/tutelage-verify --config=synthetic": partial(_decide, says="is sound."),
    "make bench-materialize": partial(_make, runs=("-m benchmarks.materialize",)),  # takes minutes
    "make bench-training": _bench_training,
    "make bench-streaming": _bench_streaming,
    "make bench-resume": _bench_resume,
    "make bench-serving": _bench_serving,
    "make bench-sixty-days": _bench_sixty_days,
    "make bench-days": _bench_days,
    "make bench-gates": _bench_gates,
    "make bench-data-gate": partial(_make, runs=("-m benchmarks.data_gate",)),  # takes minutes
    "make bench-vocabulary": partial(_make, runs=("-m benchmarks.vocabulary",)),  # takes minutes
    "make bench-engines": partial(_make, runs=("-m benchmarks.engines",)),  # takes minutes
    "make test-faults": partial(_make, runs=("-m pytest -q -m slow",)),
    "make errors": partial(_make, runs=("-m tests.errors_page",)),
    "make golden": partial(_make, runs=("-m tests.golden",)),  # test_smoke.py makes the run
}

# What is added to a command of the table after the demo's first day, and what it prints then.
AFTER_DEMO = {
    "tutelage-run": ("--end_day=2026-01-01", "Nothing to do: 2026-01-01 to 2026-01-01 are trained on"),
    "tutelage-materialize": ("--end_day=2026-01-02", "materialize: 2 days, 10,000 rows in = 10,000 kept"),
    "tutelage-teach": ("--end_day=2026-01-01", "Nothing to do: teacher is trained on all"),
    "tutelage-label": ("--end_day=2026-01-02", "label: 1 day, 5,000 rows scored"),
    "tutelage-student": ("--end_day=2026-01-01", "Nothing to do: auxiliary is trained on all"),
    "tutelage-export": ("--end_day=2026-01-01", "Nothing to do: the newest day that auxiliary is trained on"),
    "tutelage-skew": ("", "5,000 requests against 2026-01-01 of interactions"),
    "tutelage-rollback": ("", "Nothing to do: the teacher is trained on no day after 2026-01-01"),
    "tutelage-forget": ("", "0 rows on 0 days belong to user_id 7"),
    "tutelage-prune": ("", "removing: old files of lake/interactions"),
    "tutelage-report": ("", "Report: "),
    "tutelage-verify": ("", "is sound."),
    "tutelage-status": ("", "To materialise: 2026-01-03"),
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_does_what_the_text_says(
    line: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    check = next((check for start, check in HOW.items() if _begins(line, start)), None)
    assert check, f"a page has {line!r}: say in HOW how it is tested"
    check(line, tmp_path, request)


def test_no_command_of_the_readme_is_overlooked() -> None:
    for start in HOW:
        assert any(_begins(line, start) for line in COMMANDS), f"no page has {start!r} any more"
    fences = re.findall(r"^ *```(.*)$", TEXT, re.MULTILINE)
    assert set(fences[::2]) <= {"sh", "cron", "python"}
    inline = set(re.findall(r"`(make [\w-]+|tutelage-\w+)", TEXT))
    assert inline <= {*HOW, *SCRIPTS}


def test_the_table_has_every_console_script_once() -> None:
    assert sorted(re.findall(r"`(tutelage-\w+)", "".join(ROWS))) == sorted(SCRIPTS)
    # A study has a workdir of its own, and a draft needs none.
    assert SCRIPTS.keys() == {*AFTER_DEMO, "tutelage-study", "tutelage-init"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_console_script_takes_the_flags_that_the_readme_gives_it(script: str) -> None:
    done = subprocess.run([BIN / script, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.lstrip().startswith(f"{script}: ")
    taken = re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.MULTILINE)
    (row,) = (row for row in ROWS if f"`{script}" in row)
    (all_take,) = re.findall(r"^All but .*?\n\n", README, re.DOTALL | re.MULTILINE)
    of_all = {"config", "workdir", "set"} if script != "tutelage-init" else set()
    flags = re.findall(r"--(\w+)", row + all_take * bool(of_all))
    assert of_all <= set(flags) <= set(taken)


def test_every_row_of_the_table_runs_after_the_demo(demo: Demo) -> None:
    columns = [feature.name for feature in load("synthetic").schema.features]
    interactions = polars.read_delta(str(demo.folder / "demo/lake/interactions"))
    interactions.filter(day=date(2026, 1, 1)).select(columns).write_ndjson(demo.folder / "log.jsonl")
    for command in re.findall(r"`(tutelage-(?!study|init)[^`]*)`", "".join(ROWS)):
        more, says = AFTER_DEMO[command.split()[0]]
        asked = command.replace("NAME", "auxiliary").replace("FILE", "log.jsonl")
        asked = asked.replace("DAY", "2026-01-01").replace("=ID", "=7").replace("=N", "=30")
        assert says in _shell(f".venv/bin/{asked} {demo.flags} {more}", demo.folder), asked


def test_the_models_that_the_readme_names_can_be_built() -> None:
    (code,) = _blocks("python", README)
    names = {"Transformer": runpy.run_path(str(ROOT / "examples/own_backbone.py"))["Transformer"]}
    teacher, distillation = (eval(line, {**NAMES, **names}) for line in code.splitlines())
    assert teacher.model.backbone.layers == 2
    assert distillation.loss.temperature == 2


def test_the_student_of_the_page_on_distillation_is_one_of_the_kuairand_config() -> None:
    (code,) = _blocks("python", PAGES["distillation"])
    named = eval(code, NAMES)
    student = load("kuairand").student("late_auxiliary")
    assert (named.distillation, named.baseline) == (student.distillation, student.baseline)
    table = PAGES["distillation"].partition("| field | says |")[2].partition("\n\n")[0]
    told = {
        name
        for cells in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
        for name in re.findall(r"\w+", cells)
    }
    assert told < {field.name for field in dataclasses.fields(Distillation)}


def test_the_code_of_the_page_on_extending_runs(demo: Demo, tmp_path: Path) -> None:
    wide, loss, store = _blocks("python", PAGES["extending"])
    (tmp_path / "W").symlink_to(demo.folder / "demo")
    program = f"{wide}\n{loss}\n{store}\n" + (
        "from tutelage.models import Distillation, ModelConfig\n"
        "assert ModelConfig(backbone=Wide(units=128), embedding_dim=16).backbone.units == 128\n"
        'assert isinstance(Distillation(task="click", loss=AbsoluteError()).loss, SoftLoss)\n'
        "print(day, len(labels), *counts.values())\n"
    )
    (tmp_path / "page.py").write_text(program)
    command = [sys.executable, "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2026-01-01 5000 5000 0 0\n"


def test_the_growing_feature_of_the_page_on_data_is_one() -> None:
    (code,) = re.findall(r"`(Feature\([^`…]*?grows=.*?\))`", PAGES["own-data"])
    assert eval(code, {"Feature": Feature, "Growth": Growth}).grows == Growth(min_seen=2, unseen_days=14)


def test_the_results_were_made_by_the_command_that_the_page_gives() -> None:
    (command,) = (line for line in COMMANDS if "tutelage-study" in line)
    lines = (ROOT / "docs/results.md").read_text("utf-8").splitlines()
    assert f"    {command.removeprefix('.venv/bin/')}" in lines


def test_the_single_field_that_the_readme_sets_is_set(tmp_path: Path) -> None:
    (flag,) = {flag for flag in re.findall(r"`--set=(.*?)`", README) if flag.startswith("students")}
    assert flag == "students.auxiliary.distillation.click.alpha=3"
    for config in ("synthetic", "kuairand", "movielens"):
        assert load(config, overrides=[flag]).student("auxiliary").distillation[0].alpha == 3
    _shell(f".venv/bin/tutelage-status --config=synthetic --workdir=W --smoke --set={flag}", tmp_path)
