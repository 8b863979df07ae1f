"""Beam's engines as servers on this machine, in processes of their own, with the flags that commands take for them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_PATIENCE_SECONDS = 120
_BIN = Path(sys.executable).parent
PATH = f"{_BIN}{os.pathsep}{os.environ['PATH']}"
"""A pool starts its workers with the command `python`."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def server(
    folder: Path, *module: str, port: int = 0, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start `python -m MODULE...` in `folder`, and wait until it listens at `port`. It is killed at the end."""
    log = folder / f"{module[0]}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,  # Workers must find the tables from any folder.
            # Workers import the tests' own DoFns, as this process does.
            env={**os.environ, "PATH": PATH, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            start_new_session=True,
        )
    try:
        if port:
            _wait_for(port, process, log)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)


@contextlib.contextmanager
def job_service(folder: Path) -> Iterator[tuple[list[str], subprocess.Popen[bytes]]]:
    """Start Beam's Python job service and a pool of workers; yield the flags and the pool."""
    job, pool = free_port(), free_port()
    beam = "apache_beam.runners"
    service = (f"{beam}.portability.local_job_service_main", f"--port={job}", f"--staging_dir={folder}")
    workers = (f"{beam}.worker.worker_pool_main", f"--service_port={pool}")
    with server(folder, *service, port=job), server(folder, *workers, port=pool) as process:
        flags = [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{job}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool}",
        ]
        yield flags, process


@contextlib.contextmanager
def dask(
    folder: Path, *, seeds: Sequence[str] = ("7", "7")
) -> Iterator[tuple[list[str], list[subprocess.Popen[bytes]]]]:
    """Start Dask's scheduler, and a worker for each PYTHONHASHSEED; yield the flags and the workers."""
    from distributed import Client

    port = free_port()
    address = f"tcp://localhost:{port}"
    scheduler = ("distributed.cli.dask_scheduler", f"--port={port}", "--dashboard-address=:0")
    worker = ("distributed.cli.dask_worker", address, "--no-nanny", "--nthreads=1", "--dashboard-address=:0")
    with contextlib.ExitStack() as stack:
        stack.enter_context(server(folder, *scheduler, port=port))
        workers = [stack.enter_context(server(folder, *worker, PYTHONHASHSEED=seed)) for seed in seeds]
        if workers:
            with Client(address, set_as_default=False) as client:
                client.wait_for_workers(len(workers), timeout=_PATIENCE_SECONDS)
        yield ["--runner=DaskRunner", f"--dask_client_address={address}"], workers
