"""A workdir in a bucket beside one on the disk: copied from one to the other with the AWS SDK."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.s3 import client, environment


def use_server(endpoint: str) -> None:
    """Let this process, and those that it starts, find the server."""
    os.environ.update(environment(endpoint))


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def names(endpoint: str, url: str) -> list[str]:
    """Return the paths of all files below the URL of a folder."""
    bucket, key = _split(url)
    pages = client(endpoint).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/")
    return [each["Key"].removeprefix(f"{key}/") for page in pages for each in page.get("Contents", ())]


def download(endpoint: str, url: str, folder: Path) -> Path:
    """Copy a folder of a bucket to the disk; return it."""
    bucket, key = _split(url)
    store = client(endpoint)

    def fetch(name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        store.download_file(bucket, f"{key}/{name}", str(folder / name))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, names(endpoint, url)))
    return folder


def upload(endpoint: str, folder: Path, url: str) -> None:
    """Copy a folder of the disk to a bucket."""
    bucket, key = _split(url)
    store = client(endpoint)

    def send(path: Path) -> None:
        store.upload_file(str(path), bucket, f"{key}/{path.relative_to(folder)}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, (path for path in folder.rglob("*") if path.is_file())))
