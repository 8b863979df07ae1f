"""A link in the workdir is refused in one line, and what it leads to stays."""

import re
from pathlib import Path

import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.links import refuse_link, refuse_links, refuse_path_outside


@pytest.mark.parametrize("where", ["", "a", "a/b"])
@pytest.mark.parametrize("kind", ["folder", "file", "nothing"])
def test_a_link_at_any_depth_is_named(tmp_path: Path, where: str, kind: str) -> None:
    target = tmp_path / "elsewhere"
    if kind == "folder":
        target.mkdir()
        (target / "inside").symlink_to(tmp_path)  # Not looked at.
    elif kind == "file":
        target.write_text("")
    link = tmp_path / "lake" / where
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    says = f"^{re.escape(str(link))} is a link, and nothing is deleted through a link; remove it"
    with pytest.raises(UserError, match=says):
        refuse_links(tmp_path / "lake")
    with pytest.raises(UserError, match=says):
        refuse_link(link)


def test_plain_files_and_a_folder_that_is_not_there_are_no_links(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("")
    refuse_links(tmp_path)
    refuse_links(tmp_path / "none")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "day=1/../../x", "linked/x"])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    table = tmp_path / "table"
    table.mkdir()
    (table / "linked").symlink_to(tmp_path)
    refuse_path_outside(table / "day=1/part.parquet", table, "the log")
    says = f"the log names {table / path}, expected a path below {table}; restore it from a copy"
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        refuse_path_outside(table / path, table, "the log")
