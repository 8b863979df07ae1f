"""The zero-inflated log-normal: a value that is often 0, and log-normal otherwise (ZILN, arXiv 1912.07753).

Its three parameters are a task's raw outputs, float32 [batch, 3]: the logit of P(Y > 0), then μ and σ > 0 of
log Y where Y > 0. Y is in the label's own unit.
"""

from __future__ import annotations

import math

import numpy as np

from tutelage.models.lazy_tf import tf
from tutelage.models.metrics import cross_entropy, sigmoid

_SIGMA = (0.1, 3.0)
"""Bounds of σ. Values are told apart to about 10 % at best: without a floor, the density of a value that
recurs grows without bound. At σ = 3 the mean is already 90 medians, exp(σ²/2): a larger one comes from
extrapolation, not from values, and a few such examples would outweigh a day's sum of expectations."""

_LOG_MEAN = 40.0
"""Largest log of the mean of a positive value: e⁴⁰ ≈ 2e17 is above any label (a year has 3e13 µs), and
its square is still a float32."""

_nodes, _weights = np.polynomial.hermite_e.hermegauss(32)
_QUADRATURE = tuple(zip(_nodes, _weights / math.sqrt(2 * math.pi), strict=True))
_NODES = _nodes.astype(np.float32)
_WEIGHTS = (_weights / math.sqrt(2 * math.pi)).astype(np.float32)


def parameters(x: tf.Tensor) -> tf.Tensor:
    """Return (logit, μ, σ) [batch, 3] from a head's unconstrained outputs [batch, 3].

    σ is a sigmoid between its bounds, where the paper has a softplus. If it were cut by a minimum instead, an example
    beyond the bound would give no gradient to come back by.
    """
    logit, mu, scale = tf.unstack(x, axis=1)
    low, high = _SIGMA
    return tf.stack([logit, mu, low + (high - low) * tf.sigmoid(scale)], axis=1)


def unconstrained(raw: tf.Tensor) -> tf.Tensor:
    """Return what `parameters` makes `raw` of, [batch, 3] from [batch, 3]; a σ at its bounds comes out finite."""
    logit, mu, sigma = tf.unstack(raw, axis=1)
    low, high = _SIGMA
    share = tf.clip_by_value((sigma - low) / (high - low), 1e-6, 1 - 1e-6)
    return tf.stack([logit, mu, tf.math.log(share / (1 - share))], axis=1)


def nll(label: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    """Return −log likelihood [batch] of labels ≥ 0 [batch], in nats (arXiv 1912.07753, section 3).

    It is that of P(Y = 0) for a label of 0, else of a density per unit of the label. Its level depends on that unit,
    so a relative difference of two says nothing.
    """
    logit, mu, sigma = tf.unstack(raw, axis=1)
    positive = tf.cast(label > 0, tf.float32)
    log = tf.math.log(tf.where(label > 0, label, tf.ones_like(label)))
    normal = tf.math.log(sigma) + 0.5 * math.log(2 * math.pi) + 0.5 * tf.square((log - mu) / sigma)
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=positive, logits=logit) + positive * (log + normal)


def kl(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """Return KL(teacher ‖ student) [batch] of two ZILN [batch, 3], in nats; 0 where they are equal.

    It is that of P(Y > 0), plus the teacher's P(Y > 0) times that of the log-normals, which is the one of the
    normals: log(σs/σt) + (σt² + (μt − μs)²) / 2σs² − 1/2. It does not depend on the label's unit.
    """
    t_logit, t_mu, t_sigma = tf.unstack(teacher, axis=1)
    s_logit, s_mu, s_sigma = tf.unstack(student, axis=1)
    p = tf.sigmoid(t_logit)
    bernoulli = tf.nn.sigmoid_cross_entropy_with_logits(
        labels=p, logits=s_logit
    ) - tf.nn.sigmoid_cross_entropy_with_logits(labels=p, logits=t_logit)
    ratio = t_sigma / s_sigma
    normal = 0.5 * (tf.square(ratio) + tf.square((t_mu - s_mu) / s_sigma) - 1.0) - tf.math.log(ratio)
    return bernoulli + p * normal


def expected(raw: tf.Tensor) -> tf.Tensor:
    """Return E[Y] [batch] of a ZILN [batch, 3]: P(Y > 0) · exp(μ + σ²/2), in the label's unit, at most e⁴⁰."""
    logit, mu, sigma = tf.unstack(raw, axis=1)
    return tf.sigmoid(logit) * tf.exp(tf.minimum(mu + 0.5 * tf.square(sigma), _LOG_MEAN))


def expected_log1p(raw: tf.Tensor) -> tf.Tensor:
    """Return E[log1p(Y)] [batch] of a ZILN [batch, 3]: P(Y > 0) · E[softplus(μ + σZ)], Z standard normal.

    By Gauss-Hermite quadrature with 32 nodes, exact to float32 up to σ = 2 and to 1e-5 up to σ = 3
    (with 16 nodes, to 7e-6 and 2.4e-4).
    """
    logit, mu, sigma = tf.unstack(raw, axis=1)
    values = tf.nn.softplus(mu[:, None] + sigma[:, None] * _NODES)
    return tf.sigmoid(logit) * tf.linalg.matvec(values, _WEIGHTS)


# The same in NumPy, float64, for metrics: of columns [rows], labels [rows].


def expected_numpy(logit: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return E[Y] [rows] as `expected` does."""
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    return sigmoid(logit) * np.exp(np.minimum(mu + np.square(sigma) / 2, _LOG_MEAN))


def expected_log1p_numpy(logit: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return E[log1p(Y)] [rows] as `expected_log1p` does."""
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    mean = np.zeros(len(mu))
    for node, weight in _QUADRATURE:  # one by one: all at once would take 32 times the day's memory
        mean += weight * np.logaddexp(0.0, mu + sigma * node)
    return sigmoid(logit) * mean


def nll_numpy(label: np.ndarray, logit: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return −log likelihood [rows] as `nll` does."""
    positive = label > 0
    log = np.log(np.where(positive, label, 1.0))
    sigma = sigma.astype(np.float64)
    normal = np.log(sigma) + 0.5 * math.log(2 * math.pi) + np.square((log - mu) / sigma) / 2
    return cross_entropy(positive, logit) + np.where(positive, log + normal, 0.0)
