"""The example of own networks, from raw data to served versions."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end
BIN = Path(sys.executable).parent
EXAMPLE = Path(__file__).parents[2] / "examples/own_backbone.py"

# A served version needs no code of the project, nor of the example; a list is scored as its rows are.
SERVE = """
import sys
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
user = {"user_id": tf.constant([7], tf.int64), "country": tf.constant(["ID"]), "hour": tf.constant([3], tf.int64)}
videos = {"video_id": tf.constant([1, 2, 3], tf.int64), "author_id": tf.constant([4, 5, 6], tf.int64)}
listed = model.score_list(**user, **videos)
rows = model.serving_default(**{k: tf.repeat(v, 3) for k, v in user.items()}, **videos)
for name in rows:
    np.testing.assert_allclose(listed[name], rows[name], rtol=1e-5)
assert len(set(rows["click"].numpy())) == 3
assert not [name for name in sys.modules if name.split(".")[0] in ("tutelage", "own_backbone")]
"""


def _run(config: Path, workdir: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "tutelage-run", f"--config={config}", "--smoke", f"--workdir={workdir}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own_backbone")
    done = _run(EXAMPLE, path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return path


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 50


def test_the_student_is_served_without_the_example(workdir: Path) -> None:
    versions = sorted(path.parent for path in workdir.glob("export/two_towers/*/saved_model.pb"))
    assert len(versions) == 1  # Of its newest day.
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(versions[-1])], capture_output=True, text=True, cwd=workdir
    )
    assert done.returncode == 0, done.stderr
    card = json.loads((versions[-1] / "assets.extra/model_card.json").read_text())
    backbone = card["config"]["model"]["backbone"]
    assert backbone == {"type": "function", "function": "two_towers", "args": [], "keywords": {"units": 16}}


def test_a_changed_network_is_refused_in_one_line(workdir: Path, tmp_path: Path) -> None:
    changed = tmp_path / "own_backbone.py"
    text = EXAMPLE.read_text()
    # Another argument is told by the config; another function body by the variables, when it is to go on.
    changed.write_text(text.replace("two_towers, units=16", "two_towers, units=8"))
    done = _run(changed, workdir)
    assert done.returncode == 1
    assert "model.backbone.keywords.units was 16 and is 8; pass --reset" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    changed.write_text(text.replace("2 * units", "3 * units"))
    for path in (workdir / "students/two_towers").rglob("2026-01-03"):
        shutil.rmtree(path)
    done = _run(changed, workdir)
    assert done.returncode == 1
    assert "are of a network with other variables: " in done.stderr
    assert len(done.stderr.splitlines()) == 1
