"""The zero-inflated log-normal, against values worked out by hand and by numerical integration."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tutelage.models import ziln

LN3 = math.log(3.0)  # σ(ln 3) = 3/4
RAW = st.tuples(st.floats(-8, 8, width=32), st.floats(-5, 10, width=32), st.floats(0.125, 3, width=32))


def _row(logit: float, mu: float, sigma: float) -> tf.Tensor:
    return tf.constant([[logit, mu, sigma]], tf.float32)


def test_a_head_s_outputs_become_a_logit_a_mean_and_a_deviation_between_its_bounds() -> None:
    raw = ziln.parameters(tf.constant([[2.0, -7.0, 0.0], [1.0, 0.0, 1e4], [1.0, 0.0, -1e4], [0.0, 9.0, LN3]]))
    # σ = 0.1 + 2.9·σ(x): the middle at 0, three quarters of the way at ln 3.
    expected = [[2, -7, 0.1 + 2.9 / 2], [1, 0, 3], [1, 0, 0.1], [0, 9, 0.1 + 2.9 * 0.75]]
    assert raw.numpy() == pytest.approx(np.array(expected), rel=1e-6)


def test_nll_of_zero_is_minus_the_log_of_the_probability_of_zero() -> None:
    # −ln(1 − 3/4), whatever the log-normal is.
    for mu, sigma in ((0.0, 1.0), (9.0, 0.1)):
        assert float(ziln.nll(tf.constant([0.0]), _row(LN3, mu, sigma))[0]) == pytest.approx(
            math.log(4), rel=1e-6
        )


def test_nll_of_a_value_is_minus_the_log_of_its_probability_times_its_density() -> None:
    # y = e², μ = 1, σ = 2: −ln 3/4 + ln y + ln σ + ½ ln 2π + (2 − 1)²/(2·2²).
    expected = math.log(4 / 3) + 2 + math.log(2) + 0.5 * math.log(2 * math.pi) + 1 / 8
    assert float(ziln.nll(tf.constant([math.exp(2)]), _row(LN3, 1.0, 2.0))[0]) == pytest.approx(
        expected, rel=1e-6
    )


def test_the_likelihood_of_all_values_is_one() -> None:
    step = 0.001
    log = np.arange(-12, 14, step)
    density = np.exp(
        -ziln.nll(tf.constant(np.exp(log), tf.float32), tf.repeat(_row(0.5, 1.0, 1.5), len(log), 0))
    )
    zero = math.exp(-float(ziln.nll(tf.constant([0.0]), _row(0.5, 1.0, 1.5))[0]))
    # dy = y d(log y).
    assert zero + float(np.sum(density * np.exp(log) * step)) == pytest.approx(1, abs=1e-4)


def test_kl_is_that_of_the_bernoullis_plus_the_teacher_s_probability_times_that_of_the_log_normals() -> None:
    kl = ziln.kl(_row(LN3, 1.0, 1.0), _row(0.0, 0.0, 2.0))
    # 3/4 against 1/2; N(1, 1) against N(0, 2²): ln 2 + (1 + 1²)/(2·4) − 1/2.
    bernoulli = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(kl[0]) == pytest.approx(bernoulli + 0.75 * (math.log(2) + 2 / 8 - 0.5), rel=1e-6)


def test_kl_is_the_mean_excess_of_the_student_s_nll_over_values_drawn_from_the_teacher() -> None:
    teacher, student = _row(LN3, 1.0, 0.8), _row(0.2, 1.4, 1.1)
    # A quarter is 0, the rest log-normal: integrated on a grid of z = (log y − μ) / σ.
    z, step = np.linspace(-8, 8, 4001, retstep=True)
    weight = 0.75 * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * step
    label = tf.constant(np.append(np.exp(1 + 0.8 * z), 0.0), tf.float32)
    above = [ziln.nll(label, tf.repeat(raw, len(label), 0)).numpy() for raw in (student, teacher)]
    assert float(ziln.kl(teacher, student)[0]) == pytest.approx(
        float(np.append(weight, 0.25) @ (above[0] - above[1])), rel=1e-4
    )


@given(raw=RAW)
def test_kl_of_a_distribution_to_itself_is_zero(raw: tuple[float, float, float]) -> None:
    assert float(ziln.kl(_row(*raw), _row(*raw))[0]) == 0.0


@given(teacher=RAW, student=RAW)
def test_kl_is_not_negative(teacher: tuple[float, float, float], student: tuple[float, float, float]) -> None:
    # The two cross-entropies of logits up to 8 are subtracted in float32.
    assert float(ziln.kl(_row(*teacher), _row(*student))[0]) >= -2e-6


def test_the_expectation_is_the_probability_times_the_log_normal_s_mean() -> None:
    raw = tf.constant([[0.0, 1.0, 1.0], [LN3, -2.0, 2.0]])
    assert ziln.expected(raw).numpy() == pytest.approx([0.5 * math.exp(1.5), 0.75 * math.exp(0)], rel=1e-6)


def test_the_expectation_and_its_square_are_finite_for_any_parameters() -> None:
    raw = tf.constant([[1e4, 1e4, 3.0], [1e4, 39.0, 2.0], [-1e4, 1e4, 3.0], [-1e4, -1e4, 0.1]])
    # exp(39 + 2²/2) is above the bound too.
    assert ziln.expected(raw).numpy() == pytest.approx([math.exp(40), math.exp(40), 0, 0], rel=1e-5)
    assert np.isfinite(tf.square(ziln.expected(raw)).numpy()).all()


def _expected_log1p(mu: np.ndarray, sigma: float) -> np.ndarray:
    """E[log1p(exp(μ + σZ))] by the trapezoidal rule, whose error on a smooth, fading integrand is below 1e-12."""
    z, step = np.linspace(-12, 12, 20_001, retstep=True)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return np.logaddexp(0, mu[:, None] + sigma * z) @ density * step


# The last is the quadrature's own error, the others float32's at values up to 12.
@pytest.mark.parametrize(("sigma", "error"), [(0.1, 4e-6), (1.0, 4e-6), (2.0, 4e-6), (3.0, 1e-5)])
def test_the_expectation_of_log1p_agrees_with_a_numerical_integral(sigma: float, error: float) -> None:
    mu = np.linspace(-8, 12, 41)
    # A probability of 1, and one of 3/4.
    for logit, p in ((50.0, 1.0), (LN3, 0.75)):
        raw = np.stack([np.full_like(mu, logit), mu, np.full_like(mu, sigma)], axis=1).astype(np.float32)
        found = ziln.expected_log1p(tf.constant(raw)).numpy()
        assert found == pytest.approx(p * _expected_log1p(mu, sigma), rel=0, abs=error)


def test_the_expectation_of_log1p_is_not_log1p_of_the_expectation() -> None:
    raw = _row(0.0, 2.0, 1.5)
    # Jensen: half of the rows are 0, the others spread.
    assert float(ziln.expected_log1p(raw)[0]) < 0.6 * math.log1p(float(ziln.expected(raw)[0]))


@pytest.mark.parametrize("head", [(1e4, 1e4, 1e4), (-1e4, -1e4, -1e4), (1e4, -1e4, 1e4), (-1e4, 1e4, -1e4)])
def test_every_function_and_its_gradient_are_finite_at_a_head_s_extremes(
    head: tuple[float, float, float],
) -> None:
    x = tf.constant([head, head])
    teacher = tf.constant([[0.0, 2.0, 1.0], [-1e4, -1e4, 0.1]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        raw = ziln.parameters(x)
        values = {
            "nll": ziln.nll(tf.constant([0.0, 30.0]), raw),
            "kl": ziln.kl(teacher, raw),
            "expected": ziln.expected(raw),
            "expected_log1p": ziln.expected_log1p(raw),
        }
    assert raw[0, 2] > 0
    for name, value in values.items():
        assert np.isfinite(value.numpy()).all(), name
        assert np.isfinite(tape.gradient(value, x).numpy()).all(), name


def test_unconstrained_is_the_inverse_of_parameters() -> None:
    x = tf.constant([[0.3, -2.0, 1.5], [-4.0, 5.0, -3.0]])
    np.testing.assert_allclose(ziln.unconstrained(ziln.parameters(x)), x, rtol=1e-4)
    at_bounds = ziln.unconstrained(tf.constant([[0.0, 0.0, 0.1], [0.0, 0.0, 3.0]]))
    assert np.isfinite(at_bounds).all()


# In NumPy.


def test_the_quadrature_in_numpy_agrees_with_a_numerical_integral() -> None:
    step = 1e-3
    z = np.arange(-12, 12, step)
    density = np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi)
    for mu, sigma, tolerance in [(0.0, 0.1, 1e-12), (3.0, 1.0, 1e-9), (-2.0, 2.0, 1e-7), (0.0, 3.0, 2e-5)]:
        integral = np.sum(np.log1p(np.exp(mu + sigma * z)) * density) * step
        found = ziln.expected_log1p_numpy(*np.array([[math.log(3)], [mu], [sigma]]))
        assert found[0] == pytest.approx(3 / 4 * integral, rel=tolerance)


def test_numpy_agrees_with_tensorflow() -> None:
    parameters = np.array(
        [[0.0, 1.0, 0.5], [-3.0, 4.0, 1.2], [2.0, -5.0, 3.0], [-60.0, 60.0, 3.0], [90.0, -300.0, 0.1]],
        np.float32,
    )
    label = np.array([0.0, 40.0, 1e-3, 7.0, 0.0], np.float32)
    columns, raw = list(parameters.T), tf.constant(parameters)
    pairs = [
        (ziln.expected_numpy(*columns), ziln.expected(raw)),
        (ziln.expected_log1p_numpy(*columns), ziln.expected_log1p(raw)),
        (ziln.nll_numpy(label, *columns), ziln.nll(tf.constant(label), raw)),
    ]
    for found, expected in pairs:
        assert found.dtype == np.float64
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected.numpy(), rtol=2e-5, atol=1e-30)
