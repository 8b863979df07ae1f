"""Files of a workdir that are torn, and the commands that meet them, all in this process.

`python -m tests.launch.torn` prints the table of what each command does about each file, in Markdown. It takes an hour.
"""

import contextlib
import io
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.launch import small
from tutelage.launch import pool
from tutelage.launch.actions.export import export
from tutelage.launch.actions.report import report
from tutelage.launch.actions.rollback import rollback
from tutelage.launch.actions.status import status
from tutelage.launch.actions.verify import verify
from tutelage.launch.run import run
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import warn_once

CONFIG = Path(__file__).with_name("torn_config.py")
LAST, NEXT = "2026-01-03", "2026-01-04"
"""The last day that a workdir has, and the one that comes next."""
HOW = ("zero", "half", "one byte flipped", "missing")
KINDS = {
    "config.json": "config.json",
    "a student's config": "students/control/config.json",
    "state of a checkpoint": f"teacher/checkpoints/{LAST}/state.json",
    "state of an older checkpoint": "students/auxiliary/checkpoints/2026-01-02/state.json",
    "variables of a checkpoint": f"students/auxiliary/checkpoints/{LAST}/variables.data-00000-of-00001",
    "variables of an older checkpoint": "teacher/checkpoints/2026-01-02/variables.data-00000-of-00001",
    "index of a checkpoint": f"teacher/checkpoints/{LAST}/variables.index",
    "log of interactions": "lake/interactions/_delta_log/*.json",
    "log of histories": "lake/histories/_delta_log/*.json",
    "log of statistics": "lake/statistics/_delta_log/*.json",
    "log of soft_labels": "lake/soft_labels/_delta_log/*.json",
    "log of metrics": "lake/metrics/_delta_log/*.json",
    "record of the commits": "lake/metrics/_commits.log",
    "rows": f"lake/interactions/day={LAST}/*.parquet",
    "rows of an older day": "lake/interactions/day=2026-01-01/*.parquet",
    "histories": f"lake/histories/day={LAST}/*.parquet",
    "statistics": f"lake/statistics/day={LAST}/*.parquet",
    "labels before the update": f"lake/soft_labels/teacher=teacher/producer=pre_update/day={LAST}/*.parquet",
    "labels of a snapshot": f"lake/soft_labels/teacher=teacher/producer=snapshot/day={LAST}/*.parquet",
    "metrics of the teacher": "lake/metrics/model=teacher/*.parquet",
    "metrics of a student": "lake/metrics/model=control/*.parquet",
    "graph of the served version": "export/control/2026010301/saved_model.pb",
    "variables of the served version": "export/control/2026010301/variables/variables.data-00000-of-00001",
    "golden batch of the served version": "export/control/2026010301/assets.extra/golden.parquet",
    "card of the served version": "export/control/2026010301/assets.extra/tutelage.json",
    "model card of the served version": "export/control/2026010301/assets.extra/model_card.json",
    "digests of the served version": "export/control/2026010301/assets.extra/model_card.digests",
    "graph of an older version": "export/control/2026010201/saved_model.pb",
    "graph of the teacher's version": "export/teacher/2026010301/saved_model.pb",
    "numbers of the versions": "export/control/numbers.txt",
    "log of decisions": "publication/control/log.jsonl",
}  # fmt: skip
"""The files that a run reads back, by what they are: the newest that matches a pattern."""


def find(workdir: Path, pattern: str) -> Path:
    """Return the newest file that matches a pattern; of a log, the newest entry."""
    found = [path for path in workdir.glob(pattern) if path.stat().st_size]
    return max(found, key=lambda path: (path.suffix == ".json" and path.name, path.stat().st_mtime_ns))


def tear(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
        return
    middle = len(content) // 2
    torn = {
        "zero": b"",
        "half": content[:middle],
        "one byte flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }
    path.write_bytes(torn[how])


def in_process(
    work: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], *, progress: Any, **kept: Any
) -> Iterator[Any]:
    """Train as `pool` does, without a process for each model."""
    for name, arguments in jobs.items():
        try:
            result = work(*arguments, progress=lambda rows: None)
        except Exception as error:
            yield pool._Ended(name=name, error=error)
        else:
            yield pool._Ended(name=name, result=result)


def open_session(workdir: Path, *, end_day: str = LAST, read_only: bool = False) -> Session:
    return small.open_session(workdir, config=CONFIG, end_day=end_day, read_only=read_only)


COMMANDS: dict[str, Callable[[Path], None]] = {
    "status": lambda workdir: status(open_session(workdir, read_only=True)),
    "report": lambda workdir: report(open_session(workdir, read_only=True)),
    "rollback": lambda workdir: rollback(open_session(workdir), to_day="2026-01-01"),
    "export": lambda workdir: export(open_session(workdir), model="control", export="all"),
    "run": lambda workdir: run(open_session(workdir), export="all"),
    "next day": lambda workdir: run(open_session(workdir, end_day=NEXT), export="all"),
    "verify": lambda workdir: verify(open_session(workdir, read_only=True)),
    "repair": lambda workdir: verify(open_session(workdir), repair=True),
}


def said(command: str, workdir: Path) -> tuple[str, str, Exception | None]:
    """Run a command; return what it printed, what it warned of or failed with, and the failure.

    Anything but a UserError would reach a user as a traceback, and is raised.
    """
    warn_once.cache_clear()
    printed, warned = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(warned)
    root = logging.getLogger("tutelage")
    root.addHandler(handler)
    failure = None
    try:
        from tutelage.launch.actions.console import out

        with contextlib.redirect_stdout(printed), out.capture() as captured:
            COMMANDS[command](workdir)
    except UserError as error:
        failure = error
        warned.write(f"{error}\n")
    finally:
        root.removeHandler(handler)
    return printed.getvalue() + captured.get(), warned.getvalue(), failure


def steady(text: str) -> str:
    """Return what a command printed without what differs from one run to the next, and without the sizes of files."""
    return re.sub(r"\S*/workdir|Disk: .*|\d+(\.\d+)? s\b|[\d,.]+ (examples|rows)/s", "", text)


def copy(workdir: Path, to: Path) -> Path:
    """Copy a workdir whose raw data lies beside it."""
    shutil.copytree(workdir, to / "workdir", symlinks=True)
    if not (to / "raw").exists():
        (to / "raw").symlink_to(workdir.parent / "raw")
    return to / "workdir"


def told(command: str, workdir: Path, sound: str) -> str:
    """Return what a command does about a torn file: it `stops`, it goes on and `says` so, or it is `unaffected`."""
    printed, warned, failure = said(command, workdir)
    if failure is not None:
        return "stops"
    return "unaffected" if not warned and steady(printed) == sound else "says"


def main() -> None:
    """Print a line for each kind of file and each way to tear it, and a column for each command."""
    pool._run = in_process
    print(f"| file | torn | {' | '.join(COMMANDS)} |\n|{'---|' * (2 + len(COMMANDS))}")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "workdir"
        small.write_events(Path(folder) / "raw")
        said("run", base)
        open_session(base).versions("control").pin(2026010301, "a holiday")
        sound = {}
        for command in COMMANDS:
            with tempfile.TemporaryDirectory() as cell:
                sound[command] = steady(said(command, copy(base, Path(cell)))[0])
        for kind, pattern in KINDS.items():
            for how in HOW:
                cells = []
                for command in COMMANDS:
                    with tempfile.TemporaryDirectory() as cell:
                        workdir = copy(base, Path(cell))
                        tear(find(workdir, pattern), how)
                        cells.append(told(command, workdir, sound[command]))
                print(f"| {kind} | {how} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
