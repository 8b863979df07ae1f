"""The model card, and TensorFlow Serving's list of models."""

import json
import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tutelage.export.card import Facts, models_config, record_override, sha256, write_card
from tutelage.pipeline.io.json import read_json, unsealed

FACTS: dict[str, Any] = {
    "model": "auxiliary",
    "day": date(2026, 1, 3),
    "first_day": date(2026, 1, 1),
    "rows": 15_000,
    "config": {"name": "auxiliary", "alpha": 1.0, "first_day": date(2026, 1, 1)},
    "teacher": "teacher",
    "label_coverage": 0.9375,
    "judged_day": date(2026, 1, 3),
    "judged_rows": 104,
    "holdout": 0.02,
    "served": 2026010201,
    "comparisons": [
        {
            "name": "click auc",
            "value": 0.72,
            "reference": 0.71,
            "bound": None,
            "detail": "",
            "passed": True,
            "worse": -0.01,
            "low": -0.03,
            "high": 0.01,
            "margin": 0.03,
            "field": "auc_drop",
            "share": False,
            "slice": "",
            "day": date(2026, 1, 3),
            "rows": 104,
            "users": 11,
        },
        {"name": "watch relative_squared_error", "value": float("nan"), "rows": 0},
    ],
    "verdict": "fail",
    "checks": [
        {"check": "bytes", "value": 72.0, "reference": None, "bound": 100.0, "passed": True},
        {"check": "finite | scores", "value": None, "reference": None, "bound": None, "passed": False},
    ],
    "parameters": 1234,
    "ops": 56,
}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A folder of 5 + 9 + 7 bytes, in which `saved_model.pb` sorts between the two folders."""
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables/variables.index").write_bytes(b"variables")
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra/a b.json").write_bytes(b"an item")
    return tmp_path


def _card(version: Path, **facts: Any) -> dict[str, Any]:
    write_card(version, Facts(**{**FACTS, **facts}))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    path = version / "assets.extra/model_card.json"
    return unsealed(json.loads(path.read_text(), parse_constant=refuse))  # type: ignore[no-any-return]


def test_the_json_card_has_the_facts_the_size_and_the_library_versions(version: Path) -> None:
    card = _card(version)
    assert card["bytes"] == 5 + 9 + 7
    assert (card["day"], card["first_day"], card["config"]["first_day"]) == (
        "2026-01-03",
        "2026-01-01",
        "2026-01-01",
    )
    assert card["comparisons"][0] == {**FACTS["comparisons"][0], "day": "2026-01-03"}
    assert card["comparisons"][1]["value"] is None  # NaN is no JSON
    assert card["checks"] == FACTS["checks"]
    same = (
        "model",
        "rows",
        "teacher",
        "label_coverage",
        "judged_rows",
        "holdout",
        "served",
        "verdict",
        "parameters",
        "ops",
    )
    assert {name: card[name] for name in same} == {name: FACTS[name] for name in same}
    assert re.fullmatch(r"3\.1[123]\.\d+", card["versions"]["python"])
    assert re.fullmatch(r"2\.\d+\.\d+", card["versions"]["tensorflow"])


def test_the_markdown_card_shows_both_versions_on_the_same_rows_and_the_verdict(
    version: Path,
) -> None:
    card = _card(version)
    lines = (version / "assets.extra/model_card.md").read_text().splitlines()
    assert lines[0] == "# auxiliary, 2026-01-03"
    for line in (
        "| Verdict of the gate | fail |",
        "| Trained on | 2026-01-01 to 2026-01-03, 15,000 rows |",
        "| Teacher | teacher |",
        "| Label coverage of the last day | 0.9375 |",
        "| Size | 21 bytes, 1,234 parameters, 56 ops |",
        f"| SHA-256 of all files except this card | {card['sha256']} |",
        "| Judged on | 104 rows of 2026-01-03 (2 % of the users, withheld from training); "
        "served then: 2026010201 |",
        "| metric | this version | served version | worse by | from | to | margin | rows | users | passed |",
        "| click auc | 0.72 | 0.71 | -0.01 | -0.03 | 0.01 | 0.03 | 104 | 11 | True |",
        "| watch relative_squared_error | – | – | – | – | – | – | 0 | – | – |",
        "| check | value | reference | bound | passed |",
        "| bytes | 72 | – | 100 | True |",
        r"| finite \| scores | – | – | – | False |",
        ' "alpha": 1.0,',
        f"| tensorflow | {card['versions']['tensorflow']} |",
    ):
        assert line in lines


def test_the_first_version_of_a_model_without_a_teacher_has_a_card(version: Path) -> None:
    first = {"served": None, "comparisons": (), "checks": (), "teacher": None, "label_coverage": None}
    card = _card(version, **first, holdout=0.0, judged_day=date(2026, 1, 4), verdict="first")
    assert (card["served"], card["checks"], card["teacher"]) == (None, [], None)
    lines = (version / "assets.extra/model_card.md").read_text().splitlines()
    judged = "| Judged on | 104 rows of 2026-01-04 (all, of a day after its last one); served then: nothing |"
    assert {"| Teacher | – |", judged, "Nothing was compared.", "No checks."} <= set(lines)


def test_a_card_of_an_older_release_is_still_written_anew(version: Path) -> None:
    card = _card(version)
    path = version / "assets.extra/model_card.json"
    old = {
        name: value
        for name, value in card.items()
        if name not in ("judged_day", "judged_rows", "comparisons")
    }
    path.write_text(json.dumps({**old, "metrics": {"click": {"auc": 0.7}}, "blessed": None}))
    record_override(version, "the day was a holiday")
    assert "| Judged on | – |" in path.with_suffix(".md").read_text().splitlines()


def test_the_card_says_why_a_version_that_was_not_blessed_is_served(version: Path) -> None:
    before = _card(version)
    record_override(version, "the day was a holiday")
    path = version / "assets.extra/model_card.json"
    assert read_json(path) == {**before, "override": "the day was a holiday"}
    text = path.with_suffix(".md").read_text()
    assert (
        "| Verdict of the gate | fail |\n| Served despite that, because | the day was a holiday |\n" in text
    )


def test_the_hash_covers_names_and_contents_but_not_the_card_and_equals_that_of_gnu_tools(
    version: Path,
) -> None:
    before = sha256(version)
    assert _card(version)["sha256"] == before
    assert _card(version, verdict="pass")["sha256"] == before
    (command,) = re.findall(r"^ *(find .*)$", sha256.__doc__ or "", re.MULTILINE)
    done = subprocess.run(["bash", "-c", command], cwd=version, capture_output=True, text=True, check=True)
    assert done.stdout == f"{before}  -\n"
    (version / "saved_model.pb").write_bytes(b"grapH")
    changed = sha256(version)
    (version / "saved_model.pb").rename(version / "saved_model.pc")
    assert len({before, changed, sha256(version)}) == 3


def test_tensorflow_serving_parses_the_models_config_and_serves_the_highest_number() -> None:
    text = models_config("/models/", ["teacher", "auxiliary"])
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    models = config.model_config_list.config
    assert [(model.name, model.base_path, model.model_platform) for model in models] == [
        ("teacher", "/models/teacher", "tensorflow"),
        ("auxiliary", "/models/auxiliary", "tensorflow"),
    ]
    # Without a policy the server takes the highest number.
    assert not any(model.HasField("model_version_policy") for model in models)


def test_a_path_with_quotes_is_escaped() -> None:
    text = models_config('s3://bucket/it\'s "export"', ["wide"])
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert config.model_config_list.config[0].base_path == 's3://bucket/it\'s "export"/wide'


def test_the_unit_of_a_value_is_shown(version: Path) -> None:
    assert _card(version, units={"rating": "stars"})["units"] == {"rating": "stars"}
    assert "| Units | rating in stars |" in (version / "assets.extra/model_card.md").read_text()


def test_a_card_says_among_how_many_sampled_negatives_a_score_is(version: Path) -> None:
    _card(version)
    assert "sampled" not in (version / "assets.extra/model_card.md").read_text()
    assert _card(version, sampled_negatives=4)["sampled_negatives"] == 4
    line = "| Scores are those among | a positive and 4 sampled negatives |"
    assert line in (version / "assets.extra/model_card.md").read_text()
