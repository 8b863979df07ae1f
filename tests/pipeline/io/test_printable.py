"""Nothing that is printed moves the terminal's cursor, and no URL shows its password."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.pipeline.io.printable import masked, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("one\r\ntwo\tthree", r"one\r\ntwo\tthree"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("exe\u202egnp.", r"exe\u202egnp."),
        ("\u2066\u200f\u061c\u200b\ufeff\u2028", r"\u2066\u200f\u061c\u200b\ufeff\u2028"),
        ("\udc80", r"\udc80"),
        ("\U000e0041", r"\U000e0041"),
        ("Zürich, 东京, Δ % – 0\xa0B\u3000× ▁█ 'a\\b'", "Zürich, 东京, Δ % – 0\xa0B\u3000× ▁█ 'a\\b'"),
    ],
)
def test_what_is_not_visible_is_escaped_and_the_rest_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_a_printable_text_is_one_line_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in shown)
    assert printable(shown) == shown


def test_lines_stay_lines() -> None:
    assert printable_lines("a\x1b\n\nb\r\n") == "a\\x1b\n\nb\\r\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://me:hunter2@host:21/logs", "ftp://***@host:21/logs"),
        ("sftp://me:p@ss/w:rd@host/logs", "sftp://***@host/logs"),
        ("zip://a.zip::https://me:pw@host/a", "zip://a.zip::https://***@host/a"),
        ("ftp://me:p'w#1?x@host/a", "ftp://***@host/a"),
        ("no file 'https:/me:pw@host/a.zip'", "no file 'https:/***@host/a.zip'"),
        ("https://ghp_token@github.com/a", "https://***@github.com/a"),
        ("'ftp://:pw@host/a': cannot", "'ftp://***@host/a': cannot"),
        ("https://h/b?sv=1&sig=a%2Fb%3D&se=2", "https://h/b?sv=1&sig=***&se=2"),
        ("https://h/b?token=abc#x", "https://h/b?token=***#x"),
        (
            "https://h/b?X-Amz-Credential=AK/1&X-Amz-Signature=ab&X-Amz-Security-Token=cd",
            "https://h/b?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Security-Token=***",
        ),
        ("url='https://h/b?Signature=ab', status=403", "url='https://h/b?Signature=***', status=403"),
        (
            "https://h/b?AWSAccessKeyId=ab&api_key=cd&PASSWORD=ef",
            "https://h/b?AWSAccessKeyId=***&api_key=***&PASSWORD=***",
        ),
    ],
)
def test_credentials_of_a_url_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/logs/day=2026-01-01/part-0.parquet",
        "http://host:9000/bucket/a@b",
        "abfs://container@account.dfs.core.windows.net/logs",
        "https://host/logs?day=1&design=2",
        "look into /data/w/rejected, or ask a@b.org: it knows",
        "--set=students.a.token=5",
    ],
)
def test_text_without_credentials_stays(text: str) -> None:
    assert masked(text) == text
