"""The zero-inflated log-normal: a value that is often 0, and else log-normal (ZILN, arXiv 1912.07753).

Its three parameters are a task's raw outputs, float32 [batch, 3]: logit of P(Y > 0), then μ and σ > 0 of
log Y where Y > 0. Y is in the label's own unit.
"""

import math

import numpy as np
import tensorflow as tf

_SIGMA = (0.1, 3.0)
"""Bounds of σ. Values are told apart to about 10 % at best: without a floor, the density of a value that
keeps coming back grows without bound. At σ = 3 the mean is already 90 medians, exp(σ²/2): more comes of an
extrapolation, not of values, and a few such rows would outweigh a day's sum of expectations."""

_LOG_MEAN = 40.0
"""Largest log of the mean of a positive value: e⁴⁰ ≈ 2e17 is above any label (a year has 3e13 µs), and
its square is still a float32."""

_nodes, _weights = np.polynomial.hermite_e.hermegauss(32)
_NODES = _nodes.astype(np.float32)
_WEIGHTS = (_weights / math.sqrt(2 * math.pi)).astype(np.float32)


def parameters(x: tf.Tensor) -> tf.Tensor:
    """(logit, μ, σ) [batch, 3] from a head's unconstrained outputs [batch, 3].

    σ by a sigmoid between its bounds, where the paper has a softplus: with a bound above that is cut
    (a minimum), a row beyond it would give no gradient to come back by.
    """
    logit, mu, scale = tf.unstack(x, axis=1)
    low, high = _SIGMA
    return tf.stack([logit, mu, low + (high - low) * tf.sigmoid(scale)], axis=1)


def unconstrained(raw: tf.Tensor) -> tf.Tensor:
    """What `parameters` makes these of, [batch, 3] from [batch, 3]; a σ at its bounds comes out finite."""
    logit, mu, sigma = tf.unstack(raw, axis=1)
    low, high = _SIGMA
    share = tf.clip_by_value((sigma - low) / (high - low), 1e-6, 1 - 1e-6)
    return tf.stack([logit, mu, tf.math.log(share / (1 - share))], axis=1)


def nll(label: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    """−log likelihood [batch] of labels ≥ 0 [batch] (arXiv 1912.07753, section 3), in nats.

    P(Y = 0) for a label of 0, else a density per unit of the label: its level hangs on that unit, so a
    relative difference of two says nothing.
    """
    logit, mu, sigma = tf.unstack(raw, axis=1)
    positive = tf.cast(label > 0, tf.float32)
    log = tf.math.log(tf.where(label > 0, label, tf.ones_like(label)))
    normal = tf.math.log(sigma) + 0.5 * math.log(2 * math.pi) + 0.5 * tf.square((log - mu) / sigma)
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=positive, logits=logit) + positive * (log + normal)


def kl(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """KL(teacher ‖ student) [batch] of two ZILN [batch, 3], in nats; 0 where they are equal.

    That of P(Y > 0), plus the teacher's P(Y > 0) times that of the log-normals, which is the one of the
    normals: log(σs/σt) + (σt² + (μt − μs)²) / 2σs² − 1/2. It does not hang on the label's unit.
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
    """E[Y] [batch] of a ZILN [batch, 3], P(Y > 0) · exp(μ + σ²/2), in the label's unit, at most e⁴⁰."""
    logit, mu, sigma = tf.unstack(raw, axis=1)
    return tf.sigmoid(logit) * tf.exp(tf.minimum(mu + 0.5 * tf.square(sigma), _LOG_MEAN))


def expected_log1p(raw: tf.Tensor) -> tf.Tensor:
    """E[log1p(Y)] [batch] of a ZILN [batch, 3]: P(Y > 0) · E[softplus(μ + σZ)], Z standard normal.

    By Gauss-Hermite quadrature with 32 nodes, exact to float32 up to σ = 2 and to 1e-5 up to σ = 3
    (with 16 nodes, to 7e-6 and 2.4e-4).
    """
    logit, mu, sigma = tf.unstack(raw, axis=1)
    values = tf.nn.softplus(mu[:, None] + sigma[:, None] * _NODES)
    return tf.sigmoid(logit) * tf.linalg.matvec(values, _WEIGHTS)
