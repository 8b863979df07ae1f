"""KuaiRand's days on every Beam engine that runs here: seconds, whether rows are equal, and a worker that is killed.

    python -m benchmarks.engines --raw_dir=KuaiRand-Pure [--prism=FILE] [--only=dask]

Each engine materialises ten days, with a history of each user, and labels nine of them with a teacher trained on the
first. A row is equal where every day of the three tables has the hash that it has in-process. Then a worker is killed
(-9) while a second workdir is materialised: the table says how the command ended, after how many seconds, how many
days it had committed, and whether the same command, if need be again, gave equal rows. In-process, the driver is the
worker. Prism is found by --prism, on the PATH, or built through Go's proxy into build/engines, which takes minutes.
At the end Dataflow only translates the job, where its packages are installed.

This file is also the config: that of KuaiRand with a history.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import psutil

from tests import clusters
from tutelage.launch.configs import kuairand
from tutelage.launch.experiment import Experiment
from tutelage.pipeline.schema import History

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
_PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"
_TIMEOUT = "--worker_timeout=20"
_PATIENCE_SECONDS = 900
_ATTEMPTS = 5
_HEADER = (
    "| engine | materialise, s | label, s | equal | after a kill the command | days it committed | in the end equal |",
    "|---|---|---|---|---|---|---|",
)
_TABLES = ("interactions", "histories", "soft_labels")


def experiment(*, smoke: bool) -> Experiment:
    """Return KuaiRand's experiment, with the videos that the user has clicked on."""
    base = kuairand.experiment(smoke=smoke)
    seen = History(name="clicked", of="video_id", where="click")
    return replace(base, schema=replace(base.schema, histories=(seen,)))


Victims = Callable[[psutil.Process], Sequence[psutil.Process]]
"""Given a command's process, returns the workers of its job."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    name: str
    flags: Sequence[str]
    victims: Victims
    retries: bool = False
    """Whether a worker that is killed fails no command."""


def _below(process: psutil.Process, word: str) -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in process.children(recursive=True):
            with contextlib.suppress(
                psutil.NoSuchProcess
            ):  # Or a zombie: a pool waits for none of its workers.
                if word in " ".join(each.cmdline()):
                    found.append(each)
    return found


@contextlib.contextmanager
def _in_process(folder: Path) -> Iterator[Engine]:
    yield Engine(name="in-process", flags=(), victims=lambda command: [command])


@contextlib.contextmanager
def _multi_processing(folder: Path) -> Iterator[Engine]:
    yield Engine(
        name="multi_processing, 2 workers",
        flags=("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
        victims=lambda command: _below(command, "sdk_worker_main")[-1:],
    )


@contextlib.contextmanager
def _prism(folder: Path) -> Iterator[Engine]:
    binary = asked.prism or shutil.which("prism") or str(ROOT / "build/engines/prism")
    if not Path(binary).exists():
        if not (go := shutil.which("go")):
            raise LookupError("Go is not installed, which builds Prism")
        done = subprocess.run(
            [go, "install", _PRISM],
            env={**os.environ, "GOBIN": str(Path(binary).parent)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise LookupError(f"Prism could not be built: {done.stderr.splitlines()[-1]}")
    yield Engine(
        name="Prism",
        # A worker in a process of its own, so that it can be killed.
        flags=(
            "--runner=PrismRunner",
            f"--prism_location={binary}",
            "--experiments=use_loopback_process_worker=True",
            _TIMEOUT,
        ),
        victims=lambda command: _below(command, "SdkHarness"),
    )


@contextlib.contextmanager
def _job_service(folder: Path) -> Iterator[Engine]:
    with clusters.job_service(folder) as (flags_of_it, pool):
        yield Engine(
            name="job service with a pool",
            flags=(*flags_of_it, _TIMEOUT),
            victims=lambda command: _below(psutil.Process(pool.pid), "SdkHarness")[-1:],
        )


@contextlib.contextmanager
def _dask(folder: Path) -> Iterator[Engine]:
    with clusters.dask(folder) as (flags_of_it, workers):
        yield Engine(
            name="Dask, 2 workers",
            flags=(*flags_of_it, _TIMEOUT),
            victims=lambda command: [psutil.Process(workers[-1].pid)],
            retries=True,
        )


ENGINES = {
    "in_process": _in_process,
    "multi_processing": _multi_processing,
    "prism": _prism,
    "job_service": _job_service,
    "dask": _dask,
}


asked: argparse.Namespace
"""What the benchmark was asked for."""


def start(command: str, workdir: Path, *more: str) -> subprocess.Popen[str]:
    """Start `tutelage-COMMAND` with this file as the config."""
    return subprocess.Popen(
        [
            BIN / f"tutelage-{command}",
            f"--config={__file__}",
            f"--raw_dir={asked.raw_dir}",
            f"--workdir={workdir}",
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # The config imports this folder's modules, as this file does.
        env={**os.environ, "PATH": clusters.PATH, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )


def end(process: subprocess.Popen[str]) -> list[str]:
    """Wait for a command; return what it said. Raises RuntimeError where it failed."""
    said = process.communicate(timeout=_PATIENCE_SECONDS)[0].splitlines()
    if process.returncode:
        raise RuntimeError("\n".join(said))
    return said


def _beam(engine: Engine) -> list[str]:
    return [f"--beam_flag={flag}" for flag in engine.flags]


def hashes(workdir: Path) -> dict[tuple[str, date], str]:
    """Return a hash of each day of each table, whatever the order of its rows and files."""
    found = {}
    for name in _TABLES:
        table = pl.read_delta(str(workdir / "lake" / name))
        for (day,), rows in table.sort(table.columns[:1]).partition_by("day", as_dict=True).items():
            lines = sorted(rows.select(sorted(rows.columns)).write_ndjson().splitlines())
            found[name, day] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return found


def _days(workdir: Path) -> int:
    table = workdir / "lake/interactions"
    return (
        pl.scan_delta(str(table)).select(pl.col("day").n_unique()).collect().item() if table.exists() else 0
    )


def kill_one(engine: Engine, process: subprocess.Popen[str], workdir: Path) -> bool:
    """Kill a worker as soon as the job has staged rows; return whether the command still ran."""
    command, victims, looked = psutil.Process(process.pid), list[psutil.Process](), 0.0
    while process.poll() is None:
        if victims and any(workdir.glob("lake/.staging/*/*.arrow")):
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
            return True
        if not victims or time.monotonic() - looked > 1:  # It takes longer than looking for a file.
            victims, looked = list(engine.victims(command)), time.monotonic()
        time.sleep(0.002)
    return False


def measure(engine: Engine, base: Path, folder: Path, expected: dict[tuple[str, date], str]) -> str:
    """Return the engine's line of the table."""
    workdir = Path(shutil.copytree(base, folder / "undisturbed"))
    seconds = []
    for command in ("materialize", "label"):
        started = time.monotonic()
        end(start(command, workdir, *_beam(engine)))
        seconds.append(time.monotonic() - started)
    found = hashes(workdir)
    equal = found == (expected or found)
    expected.update(found)
    for attempt in range(_ATTEMPTS):
        again = Path(shutil.copytree(base, folder / f"killed-{attempt}"))
        process = start("materialize", again, *_beam(engine))
        if kill_one(engine, process, again):
            break
        process.communicate()
    else:
        return f"| {engine.name} | {_ATTEMPTS} jobs ended before a worker was killed |"
    killed = time.monotonic()
    said = process.communicate(timeout=_PATIENCE_SECONDS)[0].splitlines()
    after, days = time.monotonic() - killed, _days(again) - _days(base)
    if process.returncode:
        end(start("materialize", again, *_beam(engine)))
    end(start("label", again, *_beam(engine)))
    same = hashes(again) == expected
    how = "went on" if not process.returncode else f"status {process.returncode}, {len(said)} lines"
    if said and process.returncode:
        print(f"{engine.name}: {said[-1][:300]}", flush=True)
    return (
        f"| {engine.name} | {seconds[0]:.1f} | {seconds[1]:.1f} | {_yes(equal)} | {how}, {after:.1f} s | {days} | "
        f"{_yes(same)} |"
    )


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "**no**"


def make_base(workdir: Path) -> None:
    """Make a workdir with a teacher that has trained on the first day."""
    first = kuairand.experiment(smoke=True).start_day
    for command, *more in (("materialize",), ("teach",), ("export", "--model=teacher")):
        end(start(command, workdir, f"--end_day={first}", *more))


def dry_run(folder: Path) -> None:
    """Let Dataflow translate a job of 30 and of 3,000 files, one for each day, and print what it says."""
    project = ("--project=a-project", "--region=europe-west1", "--temp_location=gs://a-bucket/tmp")
    offline = ("--no_auth", "--dry_run=True", "--sdk_location=container", f"--setup_file={ROOT / 'setup.py'}")
    beam = [f"--beam_flag={flag}" for flag in ("--runner=DataflowRunner", *project, *offline)]
    os.environ["NO_GCE_CHECK"] = "true"
    for days in (30, 3_000):
        span = ("--start_day=2018-01-01", f"--end_day={date(2018, 1, 1) + timedelta(days=days - 1)}")
        world = ("--config=synthetic", "--set=source.first_day=2018-01-01", *span)
        said = start("materialize", folder / f"{days}", *world, *beam).communicate(timeout=_PATIENCE_SECONDS)[
            0
        ]
        print(f"Dataflow, {days:,} days: {said.splitlines()[-1]}", flush=True)


def main() -> None:
    expected: dict[tuple[str, date], str] = {}
    lines = []
    names = [name for name in ENGINES if not asked.only or name in asked.only]
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "base")
        if names:
            names = list(dict.fromkeys(["in_process", *names]))
            make_base(base)
        for name in names:
            folder = Path(temporary, name)
            folder.mkdir()
            try:
                with ENGINES[name](folder) as engine:
                    lines.append(measure(engine, base, folder, expected))
            except LookupError as error:
                lines.append(f"| {name} | skipped: {error} |")
            print(lines[-1], flush=True)
            shutil.rmtree(folder)
        print("", *_HEADER, *lines, "", sep="\n", flush=True)
        if not asked.only or "dataflow" in asked.only:
            dry_run(Path(temporary))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw_dir", default=ROOT.parent / "shared/data/KuaiRand-Pure", help="KuaiRand-Pure")
    parser.add_argument("--prism", default="", help="Prism's binary")
    parser.add_argument(
        "--only", action="append", choices=(*ENGINES, "dataflow"), help="an engine (repeatable); else all"
    )
    asked = parser.parse_args()
    main()
