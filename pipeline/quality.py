"""The quality gate: what the columns of a day must satisfy before the day is committed."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import polars as pl

from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.expected import WEEKDAYS, Expected, choose, expect, median, slow_changes
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.statistics import SAMPLED_ROWS
from tutelage.pipeline.verdict import Check, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """What a day of data must satisfy before it is committed.

    A value is compared with what is expected of it: the median of the same weekday's last four values once there are
    three, before that of the last `trailing_days`. It fails if it is further from that than both chance allows, so many
    rows and the spread between earlier days given (`Experiment.false_alarms_per_year`), and the field here, which says
    how small a change does not matter. These fields may change in a workdir at any time.
    """

    trailing_days: int = 7
    """Days of the table (or slices) that a day is compared with: the last ones before it."""
    min_days: int = 3
    """With fewer days before it, a day only needs the columns of the schema, none of them all null, and sound numbers.
    Rows, repeats, new ids and drift are compared once a whole week is there, because they follow its rhythm."""
    rows_ratio: float = 2.0
    """A day may have this many times the expected rows, or that divided by it."""
    repeats_rise: float = 0.1
    """The share of rows that repeat another row of the day in all columns but the key may exceed what is expected by
    this much. It tells when events arrive twice under new ids."""
    nulls_rise: float = 0.1
    """The share of nulls in a column may exceed what is expected by this much; 1 allows any share."""
    not_finite: float = 0.001
    """The share of NaN and infinite values in a number may be this high, and so may that of absurd ones
    (`Feature.largest`); models take both as missing."""
    rate_ratio: float = 2.0
    """The mean of a label may be this many times what is expected, or that divided by it; of a binary one its odds."""
    new_ids_rise: float = 0.25
    """The share of rows with an id that none of the last `trailing_days` has may exceed what is expected by this."""
    id_drift: float = 0.3
    """The Jensen–Shannon distance (0 to 1) of an id column from these days may be this high."""
    number_drift: float = 0.25
    """The population stability index of a number, or of a label that is not binary, may be this high. A number's mean
    may move over weeks by the root of this, in standard deviations of its values."""
    drift_ratio: float = 2.0
    """A drift may also be up to this many times what is expected."""

    def __post_init__(self) -> None:
        for count in ("trailing_days", "min_days"):
            if (days := getattr(self, count)) < 1:
                raise UserError(f"quality: {count} is {days}, expected at least 1")
        if self.min_days > self.trailing_days:
            raise UserError(
                f"quality: min_days is {self.min_days}, expected at most trailing_days, {self.trailing_days}"
            )
        for ratio in ("rows_ratio", "rate_ratio", "drift_ratio"):
            if not (value := getattr(self, ratio)) >= 1:
                raise UserError(f"quality: {ratio} is {value}, expected a number of at least 1")
        for margin in (
            "repeats_rise",
            "nulls_rise",
            "not_finite",
            "new_ids_rise",
            "id_drift",
            "number_drift",
        ):
            if not (value := getattr(self, margin)) >= 0:
                raise UserError(f"quality: {margin} is {value}, expected a number of at least 0")


DEFAULT_QUALITY = QualityConfig()
DEFAULT_ALARMS = AlarmBudget(per_year=1.0)

_VIRAL = 0.2
"""From this change of the mix of an id on, one id has gained two fifths of all rows. The other columns are then those
of that id, and their drift tells nothing."""
_ONE, _CERTAIN = 1.5, 20.0
"""An estimate of fewer distinct ids is one. Where so many rows with another value are expected, there is always one."""

FIELDS = (
    *("rows", "nulls", "not_finite", "absurd", "mean", "sd", "min", "max"),
    *("distinct", "drift", "new_ids", "drift_rest", "mix", "repeats"),
)
"""The columns of `statistics` that are judged."""


def scalars(schema: Schema, statistics: pl.DataFrame) -> np.ndarray:
    """Return what is judged of a day: [fields, columns], in the order of `FIELDS` and of features and labels.

    NaN where there is no value, and for a column or a field that an older release did not have.
    """
    names = [feature.name for feature in schema.features] + schema.labels
    found = np.full([len(FIELDS), len(names)], np.nan)
    place = {name: index for index, name in enumerate(names)}
    there = statistics["column"].to_list()
    have = [field for field in FIELDS if field in statistics.columns]
    values = statistics.select(pl.col(have).cast(pl.Float64)).to_numpy()
    rows = [row for row, name in enumerate(there) if name in place]
    at = [place[there[row]] for row in rows]
    for column, field in enumerate(have):
        found[FIELDS.index(field), at] = values[rows, column]
    return found


def judge(
    schema: Schema,
    day: tuple[date, np.ndarray],
    before: Mapping[date, np.ndarray],
    config: QualityConfig,
    *,
    alarms: AlarmBudget = DEFAULT_ALARMS,
    accepted: Collection[date] = (),
    differences: Sequence[str] = (),
) -> Verdict:
    """Judge a day by its `scalars`, compared with those of the days `before` it, in order.

    A value fails that is further from what is expected (`pipeline.expected`) than both chance and the config allow.
    What an `accepted` day had may come again. `differences` says where the day's columns differ from those that the
    source offers. The verdict is "pass", "fail", or "first" for a day that passes with too few days before it.
    """
    named = Check(
        name="columns that differ",
        value=float(len(differences)),
        bound=0.0,
        detail="; ".join(differences[:3]),
        passed=not differences,
    )
    checks = [named, *_sound(schema, day[1], config)]
    compared = len(before) >= config.min_days
    if compared:
        with np.errstate(divide="ignore", invalid="ignore"):
            checks += _Comparison(schema, day, before, config, alarms, accepted).checks()
    elif config.nulls_rise < 1:
        checks += _there(schema, day[1])
    if not all(check.passed for check in checks):
        return Verdict(verdict="fail", checks=tuple(checks))
    return Verdict(verdict="pass" if compared else "first", checks=tuple(checks))


def _there(schema: Schema, now: np.ndarray) -> Iterator[Check]:
    """Check that a column is not all null."""
    for index, feature in enumerate(schema.features):
        rows, nulls = (float(now[FIELDS.index(field), index]) for field in ("rows", "nulls"))
        said = f"all {rows:,.0f} rows (quality.nulls_rise)" if nulls == rows else ""
        name = f"nulls of {feature.name}"
        yield Check(name=name, value=nulls / rows, bound=1 - 1 / rows, detail=said, passed=nulls < rows)


def _sound(schema: Schema, now: np.ndarray, config: QualityConfig) -> Iterator[Check]:
    """Check that numbers are finite, and not absurd."""
    for index, feature in enumerate(schema.features):
        if feature.is_id:
            continue
        rows, not_finite, absurd = (
            float(np.nan_to_num(now[FIELDS.index(field), index]))
            for field in ("rows", "not_finite", "absurd")
        )
        sample = largest(now[:, index])
        for bad, what, such in (
            (not_finite, "not finite", ""),
            (absurd, f"beyond ±{feature.largest:g}", f", such as {sample:g},"),
        ):
            share = bad / rows
            passed = share <= config.not_finite
            said = (
                f"{share:.6g}, {bad:,.0f}{such} of {rows:,.0f} rows, and {config.not_finite:.6g} is the bound "
                "(quality.not_finite)"
            )
            yield Check(
                name=f"share of {feature.name} that is {what}",
                value=share,
                bound=config.not_finite,
                detail="" if passed else said,
                passed=passed,
            )


def largest(values: np.ndarray) -> float:
    """Return the number of a column that is furthest from 0; `values` are its `scalars`, [fields]."""
    return float(max(values[FIELDS.index("min")], values[FIELDS.index("max")], key=abs))


class _Comparison:
    """A day beside the days before it. Every check is made for all columns at once."""

    def __init__(
        self,
        schema: Schema,
        day: tuple[date, np.ndarray],
        before: Mapping[date, np.ndarray],
        config: QualityConfig,
        alarms: AlarmBudget,
        accepted: Collection[date],
    ):
        self.schema, self.config = schema, config
        self._names = [feature.name for feature in schema.features] + schema.labels
        self.day, self.now = day
        self.days = list(before)
        self.before = np.stack(list(before.values()))
        self.accepted = np.array([other in accepted for other in self.days])
        self.past = choose(
            self.days, self.day, trailing_days=config.trailing_days, slice_days=schema.slice_days
        )
        # Before there is a week, its rhythm is not known.
        self.has_week = schema.slice_days != 1 or len(self.days) >= max(WEEKDAYS, config.min_days)
        features, labels = len(schema.features), len(schema.labels)
        ids = sum(feature.is_id for feature in schema.features)
        # Rows on both sides, repeats; nulls, drift and new ids; means, drift; slow changes of means and of nulls.
        tests = 3 + 3 * features + ids + 4 * labels + 3 * (2 * (features - ids + labels) + features)
        self.by_rows, self.by_mix = self._weights()
        self.bound = lambda dof: alarms.bound(tests, dof=dof)

    def _field(self, name: str, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return a field of some columns: of the day [columns], and of the days before [days, columns]."""
        index = FIELDS.index(name)
        return self.now[index, columns], self.before[:, index][:, columns]

    def checks(self) -> Iterator[Check]:
        features = {feature.name: index for index, feature in enumerate(self.schema.features)}
        ids = [features[f.name] for f in self.schema.features if f.is_id]
        numbers = [features[f.name] for f in self.schema.features if not f.is_id]
        binary = {task.label for task in self.schema.tasks if task.is_binary}
        labels = list(range(len(features), len(features) + len(self.schema.labels)))
        is_binary = [name in binary for name in self.schema.labels]
        values = [index for index, is_rate in zip(labels, is_binary, strict=True) if not is_rate]
        if self.has_week:
            yield from self._rows()
            yield from self._repeats()
        yield from self._nulls(list(features.values()))
        yield from self._means(labels, np.array(is_binary))
        yield from self._constant(ids, [index for index in labels if index not in values])
        if self.has_week:
            yield from self._new_ids(ids)
            yield from self._drifts(ids, "id_drift", power=1)
            yield from self._drifts([*numbers, *values], "number_drift", power=2)
            yield from self._slow(numbers, labels, is_binary)

    def _rows(self) -> Iterator[Check]:
        now, before = self._field("rows", [0])
        found = expect(np.log(before), 1 / now, self.past, self.bound)
        high, low = self._ends(np.log(before), found)
        room = np.maximum(found.limit, math.log(self.config.rows_ratio))
        up = np.log(now) - high > low - np.log(now)
        reference = np.where(up, high, low)
        yield from self._checks(
            ["rows"],
            now,
            reference=np.exp(reference),
            bound=np.exp(np.where(up, high + room, low - room)),
            errors=np.abs(np.log(now) - reference) / found.error,
            rows=now,
            field="rows_ratio",
            upper=up,
        )

    def _repeats(self) -> Iterator[Check]:
        now, before = self._field("repeats", [0])
        rows = np.minimum(self.now[0, :1], SAMPLED_ROWS)
        names = ["rows that repeat another but for the key"]
        yield from self._shares(names, now, before, rows, self.config.repeats_rise, "repeats_rise")

    def _nulls(self, columns: list[int]) -> Iterator[Check]:
        (nulls, before), (rows, rows_before) = self._field("nulls", columns), self._field("rows", columns)
        share, shares = nulls / rows, before / rows_before
        rise = self.config.nulls_rise
        names = [f"nulls of {self._names[index]}" for index in columns]
        # A column that is all null is useless, so it fails unless it always was so or the config allows any share.
        checks = self._shares(names, share, shares, rows, rise, "nulls_rise", most=1 - 1 / rows)
        ever = (shares == 1).any(axis=0)
        for check, was_null in zip(checks, ever, strict=True):
            yield replace(check, passed=True, detail="") if was_null or rise >= 1 else check

    def _new_ids(self, columns: list[int]) -> Iterator[Check]:
        now, before = self._field("new_ids", columns)
        names = [f"new ids of {self._names[index]}" for index in columns]
        # The rows of an id are new together.
        rows = np.minimum(self._labelled(columns)[0], 1 / self.by_mix[-1])
        yield from self._shares(
            names, now, before, np.maximum(rows, 1), self.config.new_ids_rise, "new_ids_rise"
        )

    def _constant(self, ids: list[int], rates: list[int]) -> Iterator[Check]:
        """Check that an id or a binary label has more than one value, if one is as good as impossible by chance."""
        columns = [*ids, *rates]
        (distinct, before), (sd, _), (_, means) = (
            self._field(name, columns) for name in ("distinct", "sd", "mean")
        )
        rows, rows_before = self._labelled(columns)
        reference = self.past.reference
        # A column of d ids has at least d - 1 rows beside its most frequent id.
        of_ids = (median(before[reference]) - 1) * rows / median(rows_before[reference])
        rate = median(means[reference])
        beside = np.where(np.arange(len(columns)) < len(ids), of_ids, np.minimum(rate, 1 - rate) * rows)
        constant = np.where(np.arange(len(columns)) < len(ids), distinct < _ONE, sd == 0)
        for index, is_constant, other, of in zip(
            columns, constant.tolist(), beside.tolist(), rows.tolist(), strict=True
        ):
            passed = not (is_constant and other > _CERTAIN)
            said = f"one in all {of:,.0f} rows, of which at least {other:,.0f} are expected to have another"
            yield Check(
                name=f"values of {self._names[index]}",
                value=float(is_constant),
                detail="" if passed else said,
                passed=passed,
            )

    def _shares(
        self,
        names: Sequence[str],
        now: np.ndarray,
        before: np.ndarray,
        rows: np.ndarray,
        rise: float,
        field: str,
        *,
        most: float | np.ndarray = 1.0,
    ) -> list[Check]:
        """Check shares of the rows, which may rise by `rise` or by chance, and up to `most`."""
        usual = np.nan_to_num(median(before[self.past.reference]))
        # Half a row more, so that a share of 1 has an error too.
        share = (now * rows + 0.5) / (rows + 1)
        found = self._expect(before, np.maximum(usual * (1 - usual), share * (1 - share)) / rows)
        high, _ = self._ends(before, found)
        return self._checks(
            names,
            now,
            reference=high,
            bound=np.fmin(high + np.maximum(rise, found.limit), most),
            errors=(now - high) / found.error,
            rows=rows,
            field=field,
        )

    def _means(self, columns: list[int], is_binary: np.ndarray) -> Iterator[Check]:
        (now, before), (sd, sds) = self._field("mean", columns), self._field("sd", columns)
        rows = np.maximum(self._labelled(columns)[0], 1)
        usual = np.nan_to_num(median(sds[self.past.reference]))
        found = self._expect(before, np.maximum(usual, np.nan_to_num(sd)) ** 2 / rows)
        high, low = self._ends(before, found)
        ratio = self.config.rate_ratio
        up = now - high > low - now
        bound = np.where(
            up,
            np.maximum(high + found.limit, _times(high, ratio, is_binary)),
            np.minimum(low - found.limit, _times(low, 1 / ratio, is_binary)),
        )
        reference = np.where(up, high, low)
        yield from self._checks(
            [f"mean of {self._names[index]}" for index in columns],
            now,
            reference=reference,
            bound=bound,
            errors=np.abs(now - reference) / found.error,
            rows=rows,
            field="rate_ratio",
            upper=up,
        )

    def _drifts(self, columns: list[int], bound: str, *, power: int) -> Iterator[Check]:
        """Check the drift of ids or numbers, and that without the value whose share changed most.

        Of many ids only the second is checked, because the share of a single one may change by any amount.
        """
        now, before = self._field("drift_rest", columns)
        rest = np.isfinite(now) & np.isfinite(median(before[self.past.reference]))
        whole = columns if power == 2 else np.array(columns)[~rest].tolist()
        yield from self._drift(whole, "drift", bound, self.by_mix, power=power)
        some = np.array(columns)[rest].tolist()
        yield from self._drift(
            some, "drift_rest", bound, self.by_rows if power == 1 else self.by_mix, power=power
        )

    def _drift(
        self, columns: list[int], measure: str, field: str, weights: np.ndarray, *, power: int
    ) -> Iterator[Check]:
        """Check a drift, which is a distance to this `power`: distances are what errors add up in."""
        now, before = (values ** (1 / power) for values in self._field(measure, columns))
        rows = np.maximum(self._labelled(columns)[0], 1)
        # By chance alone, with n rows: sqrt(chi² / n), whose standard deviation is sqrt(1 / 2n); in bits, less.
        found = self._expect(before, (0.5 if power == 2 else 0.09) / rows, weights)
        rest = "" if measure == "drift" else " but for one value"
        more = max(1.0, weights[-1] / np.median(weights[self.past.reference]))
        high = np.maximum(self._ends(before, found)[0], found.value * np.sqrt(more))
        least = np.maximum(getattr(self.config, field), self.config.drift_ratio * high**power)
        yield from self._checks(
            [f"drift of {self._names[index]}{rest}" for index in columns],
            now**power,
            reference=high**power,
            bound=np.maximum(least, (high + found.limit) ** power),
            errors=(now - high) / found.error,
            rows=rows,
            field=field,
        )

    def _slow(self, numbers: list[int], labels: list[int], is_binary: list[bool]) -> Iterator[Check]:
        """Check for changes that are too slow to be seen from one day to the next, since a day was last accepted."""
        config, names = self.config, self._names
        since = int(np.flatnonzero(self.accepted)[-1]) if self.accepted.any() else 0
        every = np.concatenate([self.before[since:], self.now[None]])
        rows, nulls, mean, sd = (every[:, FIELDS.index(field)] for field in ("rows", "nulls", "mean", "sd"))
        means, features = [*numbers, *labels], list(range(len(self.schema.features)))
        labelled = np.maximum(rows - nulls, 1)
        share = (nulls / rows)[:, features]
        values = np.concatenate([mean[:, means], share], axis=1)
        errors = np.concatenate(
            [sd[:, means] ** 2 / labelled[:, means], share * (1 - share) / rows[:, features]], axis=1
        )
        of = np.concatenate([labelled[-WEEKDAYS:, means], rows[-WEEKDAYS:, features]], axis=1).sum(axis=0)
        shift = math.sqrt(config.number_drift) * np.nan_to_num(median(sd[:, numbers]))
        fields = (
            ["number_drift"] * len(numbers) + ["rate_ratio"] * len(labels) + ["nulls_rise"] * len(features)
        )
        said = [f"weekly mean of {names[index]}" for index in means]
        said += [f"weekly nulls of {names[index]}" for index in features]
        n, rates = len(numbers), np.array(is_binary)
        for found in slow_changes(values, errors, [*self.days[since:], self.day], self.bound):
            low, high = found.ends
            to_rate = slice(n, len(means))
            most = np.concatenate(
                [
                    high[:n] + shift,
                    _times(high[to_rate], config.rate_ratio, rates),
                    high[len(means) :] + config.nulls_rise,
                ]
            )
            least = np.concatenate(
                [
                    low[:n] - shift,
                    _times(low[to_rate], 1 / config.rate_ratio, rates),
                    np.full(len(features), -np.inf),  # Fewer nulls are no harm.
                ]
            )
            up = found.value - high > low - found.value
            usual = np.where(up, high, low)
            yield from self._checks(
                [f"{text} over {found.days} days" for text in said],
                found.value,
                reference=usual,
                bound=np.where(
                    up, np.maximum(most, high + found.limit), np.minimum(least, low - found.limit)
                ),
                errors=np.abs(found.value - usual) / found.error,
                rows=of,
                field=fields,
                upper=up,
            )

    def _labelled(self, columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return how many rows have a value, of the day and of the days before."""
        (rows, before), (nulls, nulls_before) = self._field("rows", columns), self._field("nulls", columns)
        return rows - nulls, before - nulls_before

    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Return by how much the variance of means differs from day to day, [days before + 1], of two kinds of columns.

        A mean varies with 1 / rows. Where the rows of an id belong together, it also varies with how much the mix of
        ids changed: on the day of a video that everybody watches, there are few independent rows.
        """
        every = np.concatenate([self.before, self.now[None]])
        rows, mix = every[:, FIELDS.index("rows"), 0], every[:, FIELDS.index("mix")]
        return 1 / rows, np.fmax(1 / rows, np.fmax.reduce(mix, axis=1))

    def _expect(
        self, before: np.ndarray, sampling: np.ndarray, weights: np.ndarray | None = None
    ) -> Expected:
        return expect(
            before, sampling, self.past, self.bound, weights=self.by_mix if weights is None else weights
        )

    def _ends(self, before: np.ndarray, found: Expected) -> tuple[np.ndarray, np.ndarray]:
        """Return the highest and the lowest that is expected: that of a day that somebody accepted too."""
        both = np.concatenate([found.value[None], before[self.accepted]])
        return np.fmax.reduce(both), np.fmin.reduce(both)

    def _checks(
        self,
        names: Sequence[str],
        value: np.ndarray,
        *,
        reference: np.ndarray,
        bound: np.ndarray,
        errors: np.ndarray,
        rows: np.ndarray,
        field: str | Sequence[str],
        upper: np.ndarray | None = None,
    ) -> list[Check]:
        """Return a check of each value: at most its bound, or where it is not `upper` at least that."""
        fields = [field] * len(names) if isinstance(field, str) else field
        sides = np.ones(len(names), bool) if upper is None else upper
        arrays = (value, reference, bound, errors, rows, sides)
        made = []
        for name, its_field, *found in zip(names, fields, *(each.tolist() for each in arrays), strict=True):
            now, usual, end, far, of, side = found
            if math.isnan(now) or math.isnan(end):
                made.append(Check(name=name, value=None if math.isnan(now) else now, passed=True))
                continue
            passed = now <= end if side else now >= end
            said = (
                f"{now:.6g} on {of:,.0f} rows, {usual:.6g} is expected and {end:.6g} the bound: {far:.1f} standard "
                f"errors (quality.{its_field})"
            )
            made.append(
                Check(
                    name=name,
                    value=now,
                    reference=usual,
                    bound=end,
                    detail="" if passed else said,
                    passed=passed,
                )
            )
        return made


def _times(mean: np.ndarray, ratio: float, is_binary: np.ndarray) -> np.ndarray:
    """Return a mean `ratio` times as large, or for a rate the rate of odds `ratio` times as large."""
    change = np.abs(mean) * abs(1 - ratio)
    plain = mean + change if ratio >= 1 else mean - change
    rate = np.clip(mean, 0.0, 1.0)
    return np.where(is_binary, rate * ratio / (1 - rate + rate * ratio), plain)
