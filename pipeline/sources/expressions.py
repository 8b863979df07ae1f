"""Columns that Polars SQL expressions compute from the raw columns of a row."""

import itertools
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import cache

import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.formats import BAD

BOOLEANS = {"true": "1", "True": "1", "false": "0", "False": "0"}
_VALUES = ("x", "9", "10", "9.5", "0", "1", "100", "2")
"""Values that show what an expression takes a column for: as texts they have another order than as numbers."""
_MOST = 6
"""Text columns of one expression. All combinations of what they may be are tried, so there must be a limit."""
Types = tuple[tuple[str, pl.DataType], ...]
"""The columns of an expression, each with its dtype."""


def columns_of(text: str) -> list[str]:
    """Return the raw columns that an expression reads, each once. Raises UserError where it cannot be parsed."""
    return sorted(set(_parse(text).meta.root_names()))


def as_column(name: str) -> str:
    """Return how an expression names a raw column: as it is, or in double quotes."""
    if name.isidentifier():
        with suppress(UserError):
            if columns_of(name) == [name]:
                return name
    return '"' + name.replace('"', '""') + '"'


def check(text: str, whose: str, *, typed: bool) -> None:
    """Raise UserError for an expression that cannot be parsed, gives several columns, or looks at other rows.

    `whose` says in the message who named it. Unless the files have `typed` columns, as Parquet has, an expression that
    fits no types of its columns is refused too.
    """
    try:
        names = columns_of(text)
        if _parse(text).meta.has_multiple_outputs():
            raise UserError(f"the expression {text!r} gives several columns; expected one")
        plain: Types = tuple((name, pl.String()) for name in names)
        if (kinds := _kinds(text, plain)) is None:
            if typed:
                return
            _evaluate(_probe(plain), _parse(text))
            kinds = plain
        if not all(_of_one_row(part, kinds) for part in _parts(_parse(text))):
            raise UserError(f"the expression {text!r} looks at other rows; expected one of a single row")
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{whose}: the expression {text!r}: {_first_line(error)}") from None
    except UserError as error:
        raise UserError(f"{whose}: {error}") from None


def with_computed(raw: pl.DataFrame, texts: Collection[str], file: object) -> pl.DataFrame:
    """Return `raw` with the columns `computed(text)` and `unfit(text)` of each expression.

    In a column of text, whether the values are text, numbers or booleans follows from the expression. An empty text and
    a NaN are nulls. Raises UserError, which names the `file`, where an expression does not fit the columns' types.
    """
    for text in dict.fromkeys(texts):
        names = columns_of(text)
        found: Types = tuple((name, raw.schema[name]) for name in names)
        kinds = _kinds(text, found) or found
        parsed = {name: _parsed(name, raw.schema[name], kind) for name, kind in kinds}
        inputs = raw.with_columns(value for value, _ in parsed.values())
        try:
            value = _evaluate(inputs, _parse(text))
        except pl.exceptions.PolarsError as error:
            types = ", ".join(f"{name} ({inputs.schema[name]})" for name in names)
            raise UserError(
                f"{file}: the expression {text!r}: {_first_line(error)}; it reads {types}; correct it in the config "
                "(where a CAST fails, TRY_CAST gives a null)"
            ) from None
        raw = raw.with_columns(
            (value.fill_nan(None) if value.dtype.is_float() else value).alias(computed(text)),
            pl.any_horizontal(pl.lit(False), *(bad for _, bad in parsed.values())).alias(unfit(text)),
        )
    return raw


def computed(text: str) -> str:
    """Return the name of the column with an expression's values."""
    return f"expression {text!r}"


def unfit(text: str) -> str:
    """Return the name of the column that is true where a value that the expression reads is not of its kind."""
    return f"unfit for {text!r}"


def _parse(text: str) -> pl.Expr:
    try:
        return pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"the expression {text!r}: {_first_line(error)}; expected SQL of raw columns, as in "
            "event IN ('like', 'share')"
        ) from None


def _evaluate(frame: pl.DataFrame, expr: pl.Expr) -> pl.Series:
    """Return the values of an expression [rows], also where it reads no column."""
    return frame.with_columns(expr.alias("value of the expression"))["value of the expression"]


def _parsed(name: str, dtype: pl.DataType, kind: pl.DataType) -> tuple[pl.Expr, pl.Expr]:
    """Return a raw column as `kind`, and whether it holds a value that is not of this kind."""
    column = pl.col(name)
    if dtype.is_float():
        return column.fill_nan(None), pl.lit(False)
    if dtype != pl.String:
        return column, pl.lit(False)
    missing = column.is_null() | (column == "")
    if kind == pl.String:
        return pl.when(~missing).then(column), (column == BAD).fill_null(False)
    number = column.replace(BOOLEANS).cast(pl.Float64, strict=False)
    bad = ~missing & number.is_null()
    if kind == pl.Boolean:
        return pl.when(number.is_in([0.0, 1.0])).then(number == 1), bad | (
            ~number.is_in([0.0, 1.0])
        ).fill_null(False)
    return number.fill_nan(None), bad


@cache
def _kinds(text: str, types: Types) -> Types | None:
    """Return `types` with what the expression takes each column of text for; None where nothing fits.

    As few columns as possible are numbers, as long as no part of the expression gives something else than if as many as
    possible were (`a > b`, `a + b`). Columns are booleans only where nothing else fits.
    """
    of_text = [name for name, dtype in types if dtype == pl.String]
    if len(of_text) > _MOST:
        raise UserError(
            f"the expression {text!r} reads {len(of_text)} columns of text, expected at most {_MOST}; make two labels "
            "of it, or compute a column before"
        )
    expr = _parse(text)
    if fits := sorted(_fitting(expr, types, (pl.String(), pl.Float64())), key=_numbers):
        parts = list(_parts(expr))
        return next(fit for fit in fits if all(_agree(part, fit, fits[-1]) for part in parts))
    with_booleans = _fitting(expr, types, (pl.String(), pl.Float64(), pl.Boolean()))
    return min(with_booleans, key=lambda fit: [dtype for _, dtype in fit].count(pl.Boolean()), default=None)


def _numbers(types: Types) -> int:
    return [dtype for _, dtype in types].count(pl.Float64())


def _fitting(expr: pl.Expr, types: Types, choice: Collection[pl.DataType]) -> Iterator[Types]:
    """Yield each combination of types with which the expression can be computed."""
    for kinds in itertools.product(*(choice if dtype == pl.String else [dtype] for _, dtype in types)):
        fit = tuple(zip((name for name, _ in types), kinds, strict=True))
        with suppress(pl.exceptions.PolarsError):
            _evaluate(_probe(fit), expr)
            yield fit


def _parts(expr: pl.Expr) -> Iterator[pl.Expr]:
    """Yield the expression, and all expressions that it is made of."""
    yield expr
    for part in expr.meta.pop():
        yield from _parts(part)


def _agree(part: pl.Expr, types: Types, as_numbers: Types) -> bool:
    """Return whether a part gives the same values with both types in the rows whose columns all hold numbers."""
    frame = _probe(as_numbers)
    try:
        values, others = (_evaluate(each, part) for each in (_probe(types), frame))
    except pl.exceptions.PolarsError:  # A list of constants, as in IN.
        return True
    if others.dtype == pl.String:
        return True
    numbers = frame.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
    value, other = (each.cast(pl.Float64, strict=False).filter(numbers) for each in (values, others))
    return value.equals(other)


def _of_one_row(part: pl.Expr, types: Types) -> bool:
    """Return whether a part gives the same values for two halves of the rows as for all of them."""
    probe = _probe(types)
    with suppress(pl.exceptions.PolarsError):  # A list of constants, as in IN.
        halves = [_evaluate(half, part) for half in probe.iter_slices(len(probe) // 2)]
        return _evaluate(probe, part).equals(pl.concat(halves))
    return True


def _probe(types: Types) -> pl.DataFrame:
    """Return a row for each of `_VALUES`, in which no two columns hold the same value."""
    columns = {"": pl.Series(range(len(_VALUES)))}
    for i, (name, dtype) in enumerate(types):
        texts = pl.Series(_VALUES[i:] + _VALUES[:i])
        numbers = texts.cast(pl.Float64, strict=False)
        if dtype == pl.String:
            columns[name] = texts
        elif dtype.is_numeric():
            columns[name] = numbers.cast(dtype, strict=False)
        else:
            truth = numbers == 1 if dtype == pl.Boolean else None
            columns[name] = pl.Series([None] * len(_VALUES), dtype=dtype) if truth is None else truth
    return pl.DataFrame(columns)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
