"""Kullback-Leibler divergence between distributions of actions that can only be sampled.

Of what is estimated, and why so:

- KL(p || q) of continuous policies is unbounded in the scale: two that differ by a micrometre per tick are infinitely
  far apart if neither varies. Both are therefore smoothed first, by Gaussian noise of a width below which a difference
  does not matter (``smoothed``): finite for atoms too (a gripper that is always open, a clipped entry, the bins of a
  token head), and by the data-processing inequality never more than the divergence without smoothing.
- Then a Gaussian with the samples' first two moments stands for each (``sampled_kl``). Estimators that assume nothing
  (nearest neighbours: Wang, Kulkarni, Verdu 2009) see what has been separated only as the logarithm of a distance: at
  64 samples in 7 dimensions, of unit Gaussians 4 apart, 4.2 of 8 nats (mean of 300, seed 0). The price: a policy with
  two modes counts as one wide one, and the divergence between distributions that differ in more than mean and
  covariance is not seen.
"""

from __future__ import annotations

import numpy as np

from pld_core.errors import ContractError


def gaussian_kl(mean_p: np.ndarray, cov_p: np.ndarray, mean_q: np.ndarray, cov_q: np.ndarray) -> np.ndarray:
    """KL(N_p || N_q) in nats, ``[...]``; means ``[..., d]``, covariances ``[..., d, d]``, positive definite."""
    spread, shift, volume = _terms(mean_p, cov_p, mean_q, cov_q)
    return 0.5 * (spread + shift - mean_p.shape[-1] + volume)


def sampled_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) in nats, ``[...]``, of the Gaussians behind independent samples ``[..., N, d]`` of each.

    Without bias where both are Gaussian, for any N > d + 2: with ``v = N - 1`` the expectation of an inverse sample
    covariance is ``v / (v - d - 1)`` of the inverse, those of the means' error add ``(tr(Q^-1 P) + d) / N`` to the
    shift, and the biases of the two log-determinants cancel (Wishart's moments: Muirhead 1982, ch. 3). A single
    estimate may therefore be below 0 where p and q are the same: average over states.
    """
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    count, size = p.shape[-2:]
    if q.shape != p.shape or count <= size + 2:
        raise ContractError(
            f"Divergence of samples {p.shape} and {q.shape}: give both the same shape, with more than {size + 2} "
            f"samples for {size} dimensions."
        )
    spread, shift, volume = _terms(p.mean(-2), _covariance(p), q.mean(-2), _covariance(q))
    shrink = (count - size - 2) / (count - 1)
    return 0.5 * (shrink * spread + shrink * shift - (shrink * spread + size) / count - size + volume)


def smoothed(samples: np.ndarray, width: float, rng: np.random.Generator) -> np.ndarray:
    """The samples with Gaussian noise of standard deviation ``width`` in every entry."""
    return samples + width * rng.standard_normal(np.shape(samples))


def _terms(mean_p: np.ndarray, cov_p: np.ndarray, mean_q: np.ndarray, cov_q: np.ndarray) -> tuple[np.ndarray, ...]:
    """``tr(Q^-1 P)``, ``(m_q - m_p)' Q^-1 (m_q - m_p)``, ``log |Q| / |P|``."""
    spread = np.trace(np.linalg.solve(cov_q, cov_p), axis1=-2, axis2=-1)
    away = (mean_q - mean_p)[..., None]
    shift = (away * np.linalg.solve(cov_q, away)).sum((-2, -1))
    return spread, shift, np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]


def _covariance(samples: np.ndarray) -> np.ndarray:
    centred = samples - samples.mean(-2, keepdims=True)
    return centred.swapaxes(-1, -2) @ centred / (samples.shape[-2] - 1)
