"""Divergence from samples against the closed form."""

from __future__ import annotations

import numpy as np
import pytest

from pld_core.divergence import gaussian_kl, sampled_kl, smoothed
from pld_core.errors import ContractError

DIM, COUNT, TIMES = 7, 64, 2000


def gaussians(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two with full covariances, about a nat apart."""
    rng = np.random.default_rng(seed)
    roots = [np.eye(DIM) + 0.2 * rng.normal(size=(DIM, DIM)) for _ in range(2)]
    p, q = (root @ root.T for root in roots)
    return rng.normal(size=DIM) * 0.3, p, rng.normal(size=DIM) * 0.3, q


def samples(mean: np.ndarray, covariance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.multivariate_normal(mean, covariance, (TIMES, COUNT))


def test_closed_form_by_hand() -> None:
    mean, eye = np.zeros(3), np.eye(3)
    assert gaussian_kl(mean, eye, mean, eye) == 0.0
    assert gaussian_kl(mean, eye, np.array([1.0, 0, 0]), eye) == pytest.approx(0.5), "one standard deviation"
    assert gaussian_kl(mean, 4 * eye, mean, eye) == pytest.approx(1.5 * (4 - 1 - np.log(4)))
    assert gaussian_kl(mean, eye, mean, 4 * eye) == pytest.approx(1.5 * (1 / 4 - 1 + np.log(4)))


def test_samples_give_the_closed_form_in_both_directions() -> None:
    """Its mean over many repetitions, within three standard errors, and nowhere near the other direction's."""
    mean_p, cov_p, mean_q, cov_q = gaussians()
    forth, back = gaussian_kl(mean_p, cov_p, mean_q, cov_q), gaussian_kl(mean_q, cov_q, mean_p, cov_p)
    rng = np.random.default_rng(1)
    p, q = samples(mean_p, cov_p, rng), samples(mean_q, cov_q, rng)
    for exact, found in ((forth, sampled_kl(p, q)), (back, sampled_kl(q, p))):
        error = found.std() / np.sqrt(TIMES)
        assert error < 0.02 * exact
        assert found.mean() == pytest.approx(exact, abs=3 * error)
    assert abs(forth - back) > 0.1


def test_equal_distributions_are_at_zero() -> None:
    mean, covariance, _, _ = gaussians(2)
    rng = np.random.default_rng(3)
    found = sampled_kl(samples(mean, covariance, rng), samples(mean, covariance, rng))
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(TIMES) < 0.02


def test_smoothing_makes_atoms_comparable() -> None:
    """Of two constants, KL is that of their distance in units of the noise."""
    rng = np.random.default_rng(4)
    still, moved = np.zeros((TIMES, COUNT, 2)), np.tile([0.1, 0.0], (TIMES, COUNT, 1))
    found = sampled_kl(smoothed(still, 0.05, rng), smoothed(moved, 0.05, rng))
    assert found.mean() == pytest.approx(2.0, abs=4 * found.std() / np.sqrt(TIMES))


@pytest.mark.parametrize("shape", [(9, 7), (64, 6)])
def test_samples_that_cannot_be_compared(shape: tuple[int, int]) -> None:
    other = (9, 7) if shape == (9, 7) else (64, 7)
    with pytest.raises(ContractError, match="the same shape, with more than"):
        sampled_kl(np.zeros(shape), np.zeros(other))
