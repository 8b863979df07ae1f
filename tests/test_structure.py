"""`make structure` counts lines, long functions and imports, shown on a tree that is small enough to count by hand."""

from pathlib import Path

import pytest

from benchmarks.structure import ROOT, circles, main, measure

LONG = "def long():\n" + "    x = 1\n" * 60  # 61 lines
FILES = {
    "pipeline/__init__.py": "",
    "pipeline/schema.py": "def seven(self, a, b, c, *, d, e, f):\n    def six(a, b, c, d, e, f):\n        return a\n",
    "models/ranker.py": "from tutelage.pipeline.schema import Schema\nimport os\n",
    "launch/session.py": f"from tutelage.models import ranker\n{LONG}",
    "launch/actions/run.py": "def act():\n    from tutelage.launch.session import Session\n",
    "pipeline/wrong.py": "import tutelage.launch.session\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_figures_are_those_counted_by_hand(tree: Path) -> None:
    figures = measure(tree)
    expected = {
        "pipeline: files": "3",
        "pipeline: lines": "4",
        "pipeline: functions over 60 lines": "0",
        "pipeline: functions over 6 parameters": "0",  # self does not count
        "launch: lines": "64",
        "launch: functions over 60 lines": "1",
        "imports: models of pipeline": "1",
        "imports: pipeline of launch (the wrong way)": "1",
        "imports the wrong way": "1",
        "imports between files of launch": "1",
        "files that import launch.session": "2",
        "export: files": "0",  # The folder is absent.
    }
    assert {label: figures[label] for label in expected} == expected


def test_a_function_of_seven_parameters_is_counted(tree: Path) -> None:
    (tree / "models/ranker.py").write_text(
        "def f(a, b, c, d, e, f, g): ...\nclass A:\n    def f(self, a): ...\n"
    )
    assert measure(tree)["models: functions over 6 parameters"] == "1"


def test_modules_that_import_each_other_through_a_third_are_a_circle(tree: Path) -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert measure(tree)["circles of imports"] == "none"
    (tree / "models/ranker.py").write_text("from tutelage.launch.session import Session\n")
    assert measure(tree)["circles of imports"] == "launch.session models.ranker"


def test_another_revision_is_printed_beside_the_working_tree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a clone")
    monkeypatch.setattr("sys.argv", ["structure", "--against", "HEAD"])
    main()
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["HEAD", "now"]
    assert first.startswith("pipeline: files ")
    assert len(first.split()) == 4
