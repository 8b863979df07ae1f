"""The engines that run Beam jobs: how `--beam_flag` chooses one, and what each of them needs. See docs/engines.md."""

import argparse
import contextlib
import importlib
import io
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    TestOptions,
)
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from tutelage.pipeline.errors import DryRun, TransientError, UserError

# `DirectRunner` would first try to download another runner.
DEFAULT_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"
_BY_PATH_ONLY = {"dask": _DASK, "daskrunner": _DASK}
"""Runners that Beam 2.77 does not know by their short names."""
_NEEDS = {"dask": "distributed", "dataflow": "apache_beam.runners.dataflow.internal.apiclient"}
"""By the extra of tutelage that a runner needs, a module that is imported only where that is installed."""
_DASK_PARTITIONS = 32
"""Groups of units that Dask moves as one. More let more workers work, but its GroupByKey has their square of tasks."""
_LOST = re.compile("SDK worker disconnected|Channel closed prematurely|all those workers died")
"""What Prism, Beam's Python job service and Dask say of workers that were killed."""
_SHORTEST_TIMEOUT = 20
_CONNECT_SECONDS = 10
_BEAMS_JOB_SERVER_TIMEOUT = 300
_FOR_EVER = 10 * 365 * 86400


class TutelageOptions(PipelineOptions):
    """Adds the one option of this package to those of Beam."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--worker_timeout",
            type=int,
            default=600,
            help="Seconds without a sign of life of any worker after which a job is given up.",
        )


class Engine:
    """A Beam runner and its options, as flags like `--runner=DaskRunner` choose them.

    Raises UserError for a runner that is not there, for a flag that Beam would ignore, for a value that it cannot
    parse, and for a mode that loses data.
    """

    def __init__(self, flags: Sequence[str]):
        self.options = PipelineOptions(list(flags))
        with _argparse_in_one_line():
            name = self.options.view_as(StandardOptions).runner or DEFAULT_RUNNER
            # Only now are the options of the runner's own known.
            self.runner = _create(name)
            _refuse_unknown(self.options, flags)
            self.known: dict[str, Any] = self.options.get_all_options()
        self.name = type(self.runner).__name__
        self.result: Any = None
        if self.known["direct_running_mode"] == "multi_threading":
            # Measured with Beam 2.77: it loses 0.3 to 2.7 % of the values of a GroupByKey.
            raise UserError("--direct_running_mode=multi_threading loses values in Beam 2.77; omit it")
        if self.dry_run and self.name != "DataflowRunner":
            raise UserError(
                f"--beam_flag=--dry_run: {self.name} has no dry run, only DataflowRunner; omit it"
            )
        if (seconds := self.worker_timeout) < _SHORTEST_TIMEOUT:
            raise UserError(
                f"--worker_timeout={seconds}: expected at least {_SHORTEST_TIMEOUT} seconds, because workers show "
                "every few seconds that they live"
            )

    @property
    def in_process(self) -> bool:
        """Whether all workers are threads of this process."""
        mode = self.options.view_as(DirectOptions).direct_running_mode
        return self.runs_at_start and mode == "in_memory"

    @property
    def runs_at_start(self) -> bool:
        """Whether the job has ended when `start` returns; else `wait` waits for it."""
        return isinstance(self.runner, FnApiRunner)

    @property
    def dry_run(self) -> bool:
        """Whether the job is only translated."""
        return bool(self.options.view_as(TestOptions).dry_run)

    @property
    def worker_timeout(self) -> int:
        """Seconds without a sign of life of any worker after which a job is given up."""
        return int(self.options.view_as(TutelageOptions).worker_timeout)

    def start(self, build: Callable[[beam.Pipeline], object], units: int) -> None:
        """Build a pipeline of so many units of work and hand it to the engine. Beam's own runner also runs it here.

        An engine that starts a server of its own does so only in the main thread. Raises UserError where the engine
        does not take the job.
        """
        if self.name == "DaskRunner":
            _prepare_dask(self.options, units)
        portable = self.options.view_as(PortableOptions)
        _check_answers(portable.job_endpoint)
        if portable.job_server_timeout == _BEAMS_JOB_SERVER_TIMEOUT:
            # It is also the longest that a job may take, where the service calls a job the same from the start.
            portable.job_server_timeout = _FOR_EVER
        try:
            pipeline = beam.Pipeline(runner=self.runner, options=self.options)
        except ValueError as error:  # What the engine needs and was not given, a line each.
            raise UserError(f"--runner={self.name}: {_in_one_line(error)}; see docs/engines.md") from error
        build(pipeline)
        try:
            self.result = pipeline.run()
        except (OSError, RuntimeError, ValueError, ImportError, grpc.RpcError) as error:
            if self.runs_at_start:
                raise
            # A service that does not answer now may do so later.
            kind = TransientError if isinstance(error, (OSError, grpc.RpcError)) else UserError
            raise kind(
                f"--runner={self.name} did not take the job: {_in_one_line(error)}; see docs/engines.md"
            ) from error

    def wait(self) -> None:
        """Wait until the job ends.

        Raises TransientError where the engine says that it has lost a worker, or goes away itself, and DryRun where
        it was asked only to translate the job.
        """
        try:
            with _threads_tell_no_broken_connection():
                self.result.wait_until_finish()
        except grpc.RpcError as error:
            raise TransientError(
                f"{self.name} went away before the job ended ({_in_one_line(error)}); start it again, then run again"
            ) from error
        except Exception as error:
            if _LOST.search(str(error)):
                raise TransientError(
                    f"a Beam worker was killed, and {self.name} has no other for its work (is there memory enough?); "
                    "run again"
                ) from error
            raise
        finally:
            if client := getattr(self.result, "client", None):  # Of Dask; Beam leaves it open.
                client.close()
        if self.dry_run:
            raise DryRun(_what_was_translated(self.result.job))

    def cancel(self) -> None:
        """Ask the engine to stop the job, as far as it can."""
        if self.result is not None:
            with contextlib.suppress(Exception):
                self.result.cancel()


def _create(name: str) -> PipelineRunner:
    """Return the runner of that name: a short one, or the whole path of a class."""
    path = _BY_PATH_ONLY.get(name.lower(), name)
    extra = path.rpartition(".")[2].lower().removesuffix("runner")
    try:
        if extra in _NEEDS:
            importlib.import_module(_NEEDS[extra])
        return create_runner(path)
    except (ImportError, AttributeError, ValueError) as error:
        if extra in _NEEDS:
            raise UserError(
                f"--runner={name} needs packages that are not installed; run pip install 'tutelage[{extra}]'"
            ) from error
        raise UserError(
            f"--beam_flag=--runner={name}: Beam has no such runner ({_in_one_line(error)}); see docs/engines.md"
        ) from error


def _check_answers(endpoint: str | None) -> None:
    """Raise TransientError where nothing answers at a job service's address. Beam would wait for minutes."""
    if not endpoint or endpoint == "embed":
        return
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise TransientError(
            f"no job service answers at --job_endpoint={endpoint}: {_in_one_line(error)}; start one, or correct the "
            "address (host:port)"
        ) from error


def _refuse_unknown(options: PipelineOptions, flags: Sequence[str]) -> None:
    unknown: list[str] = []
    options.get_all_options(
        add_extra_args_fn=lambda parser: unknown.extend(parser.parse_known_args(flags)[1])
    )
    for flag in unknown:
        name = flag.lstrip("-").split("=")[0]
        raise UserError(f"--beam_flag={flag}: Beam has no option {name!r}; see its PipelineOptions")


@contextlib.contextmanager
def _argparse_in_one_line() -> Iterator[None]:
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            yield
    except SystemExit:  # argparse prints its usage first and the reason last.
        raise UserError(f"--beam_flag: {message.getvalue().split('error: ')[-1].strip()}") from None


@contextlib.contextmanager
def _threads_tell_no_broken_connection() -> Iterator[None]:
    """Let Beam's threads, which read from the engine too, print no traceback when it goes away: `wait` says it."""
    before = threading.excepthook

    def tell(what: threading.ExceptHookArgs) -> None:
        if not issubclass(what.exc_type, grpc.RpcError):
            before(what)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before


def _in_one_line(error: BaseException) -> str:
    """Return what an error says: gRPC's details, the end of a traceback that it quotes, or its first lines."""
    text = (error.details() if isinstance(error, grpc.Call) else str(error)) or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if "Traceback" in text else "; ".join(lines[:3])


def _prepare_dask(options: PipelineOptions, units: int) -> None:
    """Look at the cluster, and let every worker of it take part.

    Raises UserError where no scheduler answers, it has no worker, or its workers give a text several hashes:
    GroupByKey would then make several groups of one key.
    """
    from apache_beam.runners.dask.dask_runner import DaskOptions
    from distributed import Client

    given = options.view_as(DaskOptions).get_all_options(drop_default=True, current_only=True)
    if not given.keys() & {"npartitions", "partition_size"}:
        # Beam would put 128 units into one partition, and so a small job on one worker.
        options.view_as(DaskOptions).npartitions = max(1, min(units, _DASK_PARTITIONS))
    where = {name: given[name] for name in ("address", "scheduler_file", "timeout") if name in given}
    if not where.keys() - {"timeout"}:
        return  # Dask starts workers of its own.
    address = where.get("address") or where["scheduler_file"]
    try:
        with Client(**where, set_as_default=False) as client:
            hashes = client.run(hash, "tutelage")
    except (OSError, ValueError) as error:
        raise TransientError(
            f"no Dask scheduler answers at {address}: {_in_one_line(error)}; start one, or correct "
            "--dask_client_address"
        ) from error
    if not hashes:
        raise TransientError(f"the Dask scheduler at {address} has no worker; start one, then run again")
    if len({*hashes.values()}) > 1:
        raise UserError(
            f"the Dask workers of {address} give one text several hashes, which would split a day; start all with "
            "one PYTHONHASHSEED, or let nannies start them"
        )


def _what_was_translated(job: Any) -> str:
    """Return the size of a Dataflow job, and which container and packages its workers get."""
    proto = job.proto_pipeline
    containers, packages = set[str](), set[str]()
    for environment in proto.components.environments.values():
        containers.add(beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image)
        for artifact in environment.dependencies:
            role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(artifact.role_payload)
            packages.add(role.staged_name)
    return (
        f"dry run: a job of {proto.ByteSize():,} bytes was translated and not run; container "
        f"{', '.join(sorted(containers))}; staged packages: {', '.join(sorted(packages)) or 'none'}"
    )
