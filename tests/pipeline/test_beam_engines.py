"""How flags choose an engine: what is accepted, what is refused, and in which words."""

import os
import re
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PortableOptions,
    PrismRunnerOptions,
    SparkRunnerOptions,
    StandardOptions,
)

from tests import clusters
from tests.wheel import ROOT
from tutelage.pipeline.beam_engines import Engine
from tutelage.pipeline.errors import TransientError, UserError


def refused(text: str, kind: type[UserError] = UserError):
    return pytest.raises(kind, match=f"^{re.escape(text)}")


@pytest.mark.parametrize(
    ("flags", "flag", "name"),
    [
        (["--runer=FlinkRunner"], "--runer=FlinkRunner", "runer"),
        (["--runner=FlinkRunner", "--streming"], "--streming", "streming"),
        (["--no_streming"], "--no_streming", "no_streming"),
        (["--run=FlinkRunner"], "--run=FlinkRunner", "run"),  # Beam accepts no abbreviations
    ],
)
def test_a_flag_that_beam_would_ignore_is_refused(flags: list[str], flag: str, name: str) -> None:
    text = f"--beam_flag={flag}: Beam has no option {name!r}; see its PipelineOptions"
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        Engine(flags)


def test_a_value_that_beam_cannot_parse_is_refused_in_one_line() -> None:
    text = "--beam_flag: argument --direct_num_workers: invalid int value: 'two'"
    with pytest.raises(UserError, match=f"^{text}$"):
        Engine(["--direct_num_workers=two"])


def test_the_mode_that_loses_values_is_refused() -> None:
    text = "--direct_running_mode=multi_threading loses values in Beam 2.77; omit it"
    with pytest.raises(UserError, match=f"^{text}$"):
        Engine(["--direct_running_mode=multi_threading"])


def test_flags_that_beam_knows_reach_it() -> None:
    parsed = Engine(
        [
            "--runner=FlinkRunner",
            "--direct_running_mode=multi_processing",
            "--direct_num_workers=3",
            "--no_auth",  # an option of this name
            "--experiment=x",  # another spelling of --experiments
            "--parallelism=-1",  # the default
            "--no_direct_runner_use_stacked_bundle",  # the option without no_, switched off
        ]
    ).options
    assert parsed.view_as(StandardOptions).runner == "FlinkRunner"
    direct = parsed.view_as(DirectOptions)
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("multi_processing", 3)
    assert direct.direct_runner_use_stacked_bundle is False
    assert parsed.view_as(GoogleCloudOptions).no_auth is True


def test_without_flags_all_workers_are_threads_of_this_process() -> None:
    engine = Engine([])
    assert (engine.name, engine.in_process, engine.runs_at_start) == ("FnApiRunner", True, True)
    engine = Engine(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    assert (engine.name, engine.in_process, engine.runs_at_start) == ("FnApiRunner", False, True)


@pytest.mark.parametrize("name", ["DaskRunner", "dask", "apache_beam.runners.dask.dask_runner.DaskRunner"])
def test_dask_is_known_by_its_short_name_with_its_options(name: str) -> None:
    from apache_beam.runners.dask.dask_runner import DaskOptions

    engine = Engine([f"--runner={name}", "--dask_client_address=tcp://host:8786", "--dask_npartitions=8"])
    assert (engine.name, engine.in_process, engine.runs_at_start) == ("DaskRunner", False, False)
    assert engine.options.view_as(DaskOptions).address == "tcp://host:8786"
    assert engine.options.view_as(DaskOptions).npartitions == 8


def test_the_options_of_the_other_engines_are_known() -> None:
    prism = Engine(["--runner=PrismRunner", "--prism_location=/opt/prism"])
    assert prism.options.view_as(PrismRunnerOptions).prism_location == "/opt/prism"
    portable = Engine(
        [
            "--runner=PortableRunner",
            "--job_endpoint=host:1",
            "--environment_type=EXTERNAL",
            "--environment_config=h:2",
        ]
    )
    assert portable.options.view_as(PortableOptions).environment_config == "h:2"
    flink = Engine(["--runner=FlinkRunner", "--flink_master=host:8081", "--flink_version=1.19"])
    assert flink.options.view_as(FlinkRunnerOptions).flink_master == "host:8081"
    spark = Engine(["--runner=SparkRunner", "--spark_master_url=spark://host:7077"])
    assert spark.options.view_as(SparkRunnerOptions).spark_master_url == "spark://host:7077"
    assert {engine.in_process for engine in (prism, portable, flink, spark)} == {False}


def test_a_runner_that_beam_does_not_have_is_refused() -> None:
    with refused(
        "--beam_flag=--runner=FlinkRuner: Beam has no such runner (Unexpected pipeline runner: FlinkRuner. "
    ):
        Engine(["--runner=FlinkRuner"])
    with refused(
        "--beam_flag=--runner=my.Runner: Beam has no such runner (No module named 'my'); see docs/engines.md"
    ):
        Engine(["--runner=my.Runner"])


@pytest.mark.parametrize(
    ("runner", "module", "extra"),
    [
        ("DaskRunner", "distributed", "dask"),
        ("dask", "distributed", "dask"),
        ("DataflowRunner", "apache_beam.runners.dataflow.internal.apiclient", "dataflow"),
        ("Dataflow", "apache_beam.runners.dataflow.internal.apiclient", "dataflow"),
    ],
)
def test_a_runner_whose_packages_are_missing_names_the_extra(
    runner: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # Importing it fails, as where it is not installed.
    text = f"--runner={runner} needs packages that are not installed; run pip install 'tutelage[{extra}]'"
    with refused(text):
        Engine([f"--runner={runner}"])


def test_only_dataflow_has_a_dry_run() -> None:
    with refused("--beam_flag=--dry_run: FlinkRunner has no dry run, only DataflowRunner; omit it"):
        Engine(["--runner=FlinkRunner", "--dry_run=True"])


def test_a_timeout_shorter_than_a_few_signs_of_life_is_refused() -> None:
    assert (Engine([]).worker_timeout, Engine(["--worker_timeout=20"]).worker_timeout) == (600, 20)
    with refused("--worker_timeout=19: expected at least 20 seconds, because workers show every few seconds"):
        Engine(["--worker_timeout=19"])


def _start(*flags: str) -> None:
    Engine(flags).start(lambda pipeline: pipeline | beam.Create([1]) | beam.Map(print), units=1)


@pytest.fixture
def closed() -> str:
    """An address at which nothing answers."""
    return f"localhost:{clusters.free_port()}"


def test_a_job_service_that_does_not_answer_is_told_at_once(closed: str) -> None:
    text = f"no job service answers at --job_endpoint={closed}: [Errno 111] Connection refused; start one, or correct"
    with refused(text, TransientError):
        _start("--runner=PortableRunner", f"--job_endpoint={closed}")
    with refused("no job service answers at --job_endpoint=nowhere: ", TransientError):
        _start("--runner=PortableRunner", "--job_endpoint=nowhere")


def test_portable_runner_without_its_job_service_says_what_it_needs() -> None:
    with refused(
        "--runner=PortableRunner did not take the job: You must specify a --job_endpoint when using"
    ):
        _start("--runner=PortableRunner")


def test_a_dask_scheduler_that_does_not_answer_is_told(closed: str) -> None:
    with refused(f"no Dask scheduler answers at tcp://{closed}: ", TransientError):
        _start("--runner=DaskRunner", f"--dask_client_address=tcp://{closed}", "--dask_connection_timeout=2")


def test_prism_that_is_not_there_is_told() -> None:
    text = '--runner=PrismRunner did not take the job: Unable to parse binary URL "/no/prism". '
    with refused(text):
        _start("--runner=PrismRunner", "--prism_location=/no/prism")


@pytest.mark.end_to_end
def test_a_dask_cluster_without_workers_is_told(tmp_path: Path) -> None:
    with clusters.dask(tmp_path, seeds=()) as (flags, _):
        address = flags[1].partition("=")[2]
        text = f"the Dask scheduler at {address} has no worker; start one, then run again"
        with refused(text, TransientError):
            _start(*flags)


@pytest.mark.end_to_end
def test_dask_workers_that_hash_texts_differently_are_refused(tmp_path: Path) -> None:
    with clusters.dask(tmp_path, seeds=("7", "8")) as (flags, _):
        address = flags[1].partition("=")[2]
        text = f"the Dask workers of {address} give one text several hashes, which would split a day; start all with"
        with refused(text):
            _start(*flags)


@pytest.mark.cluster
@pytest.mark.end_to_end
def test_a_dry_run_of_dataflow_is_no_failure(tmp_path: Path) -> None:
    pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient", reason="needs tutelage[dataflow]")
    beam_flags = [
        "--runner=DataflowRunner",
        "--project=a-project",
        "--region=europe-west1",
        "--temp_location=gs://a-bucket/tmp",
        "--no_auth",
        "--dry_run=True",
        "--sdk_location=container",
        f"--setup_file={ROOT / 'setup.py'}",
    ]
    code = "from tutelage.launch.commands import materialize; materialize()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--config=synthetic", "--smoke", f"--workdir={tmp_path}"]
        + [f"--beam_flag={flag}" for flag in beam_flags],
        env={**os.environ, "NO_GCE_CHECK": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"dry run: a job of [\d,]+ bytes was translated and not run; container \S+/beam_python3\.\d+_sdk:2\.77\.0; "
        r"staged packages: .*workflow\.tar\.gz\n",
        done.stdout,
    ), done.stdout
    assert not list(tmp_path.glob("lake/interactions/day=*"))
    assert list((tmp_path / "lake/.staging").iterdir()) == []
