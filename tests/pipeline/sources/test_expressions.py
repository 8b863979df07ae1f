"""Expressions in a config: what is wrong with one is said at once, and what its text columns are follows from it."""

import polars as pl
import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.expressions import as_column, check, columns_of, computed, unfit, with_computed

NEED = "expected SQL of raw columns, as in event IN ('like', 'share')"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "event IN ('a'",
            f"""the expression "event IN ('a'": unable to parse 'event IN ('a'' as Expr; {NEED}""",
        ),
        ("a, b", f"the expression 'a, b': invalid expression (found unexpected token ','); {NEED}"),
        ("", f"the expression '': unable to parse '' as Expr; {NEED}"),
        ("open('x')", f"""the expression "open('x')": unsupported function 'open'; {NEED}"""),
        ("COLUMNS('a.*')", """the expression "COLUMNS('a.*')" gives several columns; expected one"""),
        ("SUM(a)", "the expression 'SUM(a)' looks at other rows; expected one of a single row"),
        ("AVG(a) > 0", "the expression 'AVG(a) > 0' looks at other rows; expected one of a single row"),
        ("COUNT(*)", "the expression 'COUNT(*)' looks at other rows; expected one of a single row"),
        (
            "ROW_NUMBER() OVER (ORDER BY a) < 3",
            "the expression 'ROW_NUMBER() OVER (ORDER BY a) < 3' looks at other rows; expected one of a single row",
        ),
        (
            "a IN ('x') AND a > 3",
            """the expression "a IN ('x') AND a > 3": cannot compare string with numeric type (i32)""",
        ),
        (
            "a + b + c + d + e + f + g",
            "the expression 'a + b + c + d + e + f + g' reads 7 columns of text, expected at most 6; make two "
            "labels of it, or compute a column before",
        ),
    ],
)
def test_what_is_wrong_with_an_expression_is_said_in_one_line(text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        check(text, "Files: click", typed=False)
    assert str(error.value) == f"Files: click: {says}"


def test_where_files_have_types_only_the_files_can_tell_whether_they_fit() -> None:
    check("EXTRACT(hour FROM at) > 6", "Files: click", typed=True)
    with pytest.raises(UserError, match="operation not supported for dtype"):
        check("EXTRACT(hour FROM at) > 6", "Files: click", typed=False)
    raw = pl.DataFrame({"at": ["2026-01-01 07:00", "2026-01-01 05:00"]}).select(
        pl.col("at").str.to_datetime()
    )
    late = with_computed(raw, ["EXTRACT(hour FROM at) > 6"], "a.parquet")
    assert late[computed("EXTRACT(hour FROM at) > 6")].to_list() == [True, False]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a > b", [False, True, None, None]),  # 9 and 10, 10 and 9, x, and a null
        ("a = b", [False, False, False, None]),
        ("a + b", [19.0, 19.0, None, None]),
        ("a || b", ["910", "109", "x1", None]),
        ("a IS NULL AND b > '0'", [False, False, False, True]),
        ("CAST(a AS DOUBLE) > 9", [False, True, None, None]),
        ("GREATEST(a, b)", [10.0, 10.0, None, 1.0]),
        ("COALESCE(a, '-')", ["9", "10", "x", "-"]),
        ("LENGTH(a)", [1, 2, 1, None]),
        ("a = 9", [True, False, None, None]),
        ("a = '9'", [True, False, False, None]),
    ],
)
def test_a_text_column_is_what_the_expression_takes_it_for(text: str, read: list[object]) -> None:
    raw = pl.DataFrame({"a": ["9", "10", "x", ""], "b": ["10", "9", "1", "1"]})
    frame = with_computed(raw, [text], "a.csv")
    values = frame.select(pl.when(~pl.col(unfit(text))).then(computed(text))).to_series()
    assert values.to_list() == read


def test_the_raw_columns_stay_as_they_are() -> None:
    raw = pl.DataFrame({"a": ["9", "x"], "b": [1, 2]})
    assert with_computed(raw, ["a", "a > 3", "b"], "a.csv").select("a", "b").equals(raw)


def test_names_that_are_no_words_are_quoted() -> None:
    names = ["event", "watch-ms", "order", 'odd "name"', "日本", "Event"]
    assert [as_column(name) for name in names][:2] == ["event", '"watch-ms"']
    for name in names:
        assert columns_of(f"{as_column(name)} > 3") == [name]
