"""What a workdir may be called, and what is said of the rest in one line."""

import os
import sys
from pathlib import Path

import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.paths import StoreError, as_path, remote
from tutelage.pipeline.io.store import FILES

EXPECTED = "expected a local folder, or a URL that begins with s3://, gs://, abfs:// or abfss://"


def test_a_local_folder_stays_a_path_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert as_path("demo") == tmp_path / "demo"
    assert as_path(tmp_path / "a:b") == tmp_path / "a:b"
    assert as_path("at 10:30/demo") == tmp_path / "at 10:30/demo"
    assert remote(as_path("demo")) is None


@pytest.mark.parametrize(
    "text", ["s3://bucket/w", "gs://bucket/w", "abfs://box/w", "abfs://box@account.dfs.core.windows.net/w"]
)
def test_a_url_of_an_object_store_keeps_its_text(text: str) -> None:
    assert str(as_path(text)) == text
    assert str(as_path(f"{text}/a/../b/")) == f"{text}/b"
    assert as_path(as_path(text)) == as_path(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ftp://host/w", f"'ftp' is no scheme that can be used; {EXPECTED}"),
        ("://x", f"'' is no scheme that can be used; {EXPECTED}"),
        ("http://me:pw@host/w", f"'http' is no scheme that can be used; {EXPECTED}"),
        ("s3:/bucket/w", "it names no bucket; write s3://BUCKET/FOLDER"),
        ("s3:///w", "it names no bucket; write s3://BUCKET/FOLDER"),
        (
            "s3://key:secret@bucket/w",
            "expected s3://BUCKET/FOLDER and nothing else; credentials come from the environment",
        ),
        (
            "s3://bucket/w?region=eu",
            "expected s3://BUCKET/FOLDER and nothing else; credentials come from the environment",
        ),
    ],
)
def test_any_other_url_is_refused_in_one_line_and_without_its_password(text: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        as_path(text, flag="--workdir")
    assert str(error.value).startswith("--workdir=")
    assert str(error.value).endswith(f": {why}")
    assert "pw@" not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs"), ("abfs", "azure")])
def test_a_missing_driver_is_told_by_its_extra(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UserError) as error:
        as_path(f"{scheme}://bucket/w", flag="--workdir")
    assert str(error.value) == (
        f"--workdir={scheme}://bucket/w: the driver of {scheme}:// is not installed; "
        f"run pip install 'tutelage[{extra}]'"
    )


def test_a_path_in_a_store_never_becomes_a_local_one(s3: str) -> None:
    path = as_path(s3)
    with pytest.raises(TypeError):
        Path(path)
    with pytest.raises(TypeError):
        os.fspath(path)


def test_a_bucket_that_does_not_exist_is_told_in_one_line(s3: str) -> None:
    path = as_path(f"{s3}-other")
    with pytest.raises(
        UserError, match=r"^s3://\S+: there is no such bucket; create it, or correct the URL$"
    ):
        FILES.put(path / "record", b"one")
    with pytest.raises(UserError, match="there is no such bucket"):
        list(path.iterdir())


def test_a_store_that_does_not_answer_is_a_passing_cause_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.pipeline.io.paths._ATTEMPTS", 1)
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "very-secret"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError) as error:
        (as_path("s3://unreachable") / "record").read_bytes()
    text = str(error.value)
    assert text.startswith("s3://unreachable/record: ")
    assert text.endswith("; look after the network and the store, then run again")
    assert "\n" not in text
    assert "very-secret" not in text
