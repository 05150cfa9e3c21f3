"""What a random start tells of the eigenvalues that an iteration may have missed.

A random unit vector holds every eigenvector to some extent, except with a small probability. Lanczos from it knows the
first moments of its spectral measure, and a measure with these moments has little mass far out: an eigenvalue there
would need more mass than it can have (van Dorsselaer, Hochstenbach, van der Vorst 2000, SIAM J. Matrix Anal. Appl.
22(3), 837-852). Nothing is supposed about the matrix: neither its sign nor the lower end of its spectrum. For a
positive semidefinite matrix this is never worse than the bound that is known before the products are made (Kuczynski,
Wozniakowski 1992, SIAM J. Matrix Anal. Appl. 13(4), 1094-1122).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

_HALVINGS = 40


def least_mass(dim: int, failure: float) -> float:
    """The squared component along a fixed direction that a random unit vector has at least.

    The component t has the density C (1 - t^2)^((n - 3) / 2), C = Gamma(n / 2) / (sqrt(pi) Gamma((n - 1) / 2)), at most
    C for n >= 3; so P(|t| < s) <= 2 C s. A fixed vector added to the random one makes small components no likelier.

    Args:
        dim: the dimension n.
        failure: the probability of less.
    """
    if dim == 1:
        return 1.0
    if dim == 2:
        return math.sin(math.pi * failure / 2) ** 2
    log_density = math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2) - math.log(math.pi) / 2
    return (failure / (2 * math.exp(log_density))) ** 2


def largest_with_mass(diagonal: np.ndarray, beside: np.ndarray, mass: float) -> float:
    """The largest point at which a measure can have that mass: X with sum_i p_i(X)^2 = 1 / mass above the Ritz values.

    p_0 ... p_j are the measure's orthonormal polynomials; 1 / sum_i p_i(x)^2 is the most that any measure with the same
    recurrence has at x (Christoffel's function).

    Args:
        diagonal: of the recurrence, shape (j,).
        beside: its off-diagonal, shape (j,): the last one is the norm of what the last product left.
        mass: as of `least_mass`, for a measure of mass 1.
    """
    matrix = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
    low = top = float(np.linalg.eigvalsh(matrix)[-1])
    step = max(float(beside.max()), abs(top) * 1e-15, 1e-300)
    while not _holds_less(top + step, diagonal, beside, mass):
        low, step = top + step, 2 * step
    high = top + step
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _holds_less(middle, diagonal, beside, mass) else (middle, high)
    return high


def _holds_less(x: float, diagonal: np.ndarray, beside: np.ndarray, mass: float) -> bool:
    """Whether the measure has less than that mass at x, beyond all Ritz values."""
    before, now, total = 0.0, 1.0, 1.0
    for i, (alpha, beta) in enumerate(zip(diagonal, beside, strict=True)):
        if total * mass > 1.0:
            return True
        following = (x - alpha) * now - (beside[i - 1] * before if i else 0.0)
        if following <= 0.0:  # at a Ritz value, to rounding
            return False
        if following > 1e150 * beta:
            return True
        before, now = now, following / beta
        total += now * now
    return total * mass > 1.0


def upper_bounds(values: np.ndarray, gram: np.ndarray, rest: float) -> Iterator[float]:
    """Upper bounds of the largest eigenvalues of A = [[T, C^T], [C, B]], T diagonal, B known to have none above `rest`.

    For x above `rest` A has as many eigenvalues above x as T + C^T (x - B)^-1 C, hence no more than
    T + C^T C / (x - rest). The i-th one is below every x with theta_i(T + C^T C / (x - rest)) <= x.

    Args:
        values: the diagonal of T, shape (m,).
        gram: C^T C, shape (m, m).
        rest: above which B has no eigenvalue.

    Yields:
        m + 1 bounds, falling; the last one is `rest`.
    """
    falling = np.sort(values)[::-1]
    least = 1e-14 * max(float(np.abs(values).max(initial=0.0)), abs(rest), 1e-280)
    reach = math.sqrt(float(np.trace(gram))) + least
    for i, value in enumerate(falling):
        if not gram.any():
            yield max(float(value), rest)
            continue

        def holds(x: float, i: int = i) -> bool:
            moved = np.diag(values) + gram / max(x - rest, least)
            return bool(np.linalg.eigvalsh(moved)[-1 - i] <= x)

        low, high = max(float(value), rest), max(float(value), rest) + reach
        while high - low > 1e-4 * (high - max(float(value), rest)) + least:
            middle = (low + high) / 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        yield high
    yield rest
