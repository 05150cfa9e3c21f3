"""How often a wanted rank is missed, and a certificate wrong, over spectra of many kinds; minutes to hours."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from curvtool import MatrixOperator, eigenvalues

RUNS = int(os.environ.get("CURVTOOL_RANK_RUNS", "2000"))  # a figure for publication takes 20,000


def wishart(size, rng, ratio):
    rows = rng.standard_normal((size, size * ratio)) / np.sqrt(size * ratio)
    return np.linalg.eigvalsh(rows @ rows.T)


def network(seed, relu):
    """The eigenvalues of a small trained network's Hessian, and its gradient in their basis."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (60,), generator=generator)
    width = 10 + seed % 4
    weights = torch.randn(width * 8 + 3, generator=generator, dtype=torch.float64) / 2

    def loss(w):
        first, second = w[: 4 * width].view(width, 4), w[5 * width : 8 * width].view(3, width)
        hidden = x @ first.T + w[4 * width : 5 * width]
        hidden = hidden.relu() if relu else hidden.tanh()
        return torch.nn.functional.cross_entropy(hidden @ second.T + w[-3:], y)

    for _ in range(seed % 3 * 100):
        weights.requires_grad_()
        (slope,) = torch.autograd.grad(loss(weights), weights)
        weights = (weights - 0.3 * slope).detach()
    values, vectors = torch.linalg.eigh(torch.autograd.functional.hessian(loss, weights))
    (slope,) = torch.autograd.grad(loss(weights.requires_grad_()), weights)
    return values.numpy(), vectors.T @ slope


def spectra():
    rng, made = np.random.default_rng(0), {}
    for n in (80, 120):
        steps = np.arange(1, n + 1.0)
        made |= {f"power {a} {n}": steps**-a for a in (0.3, 0.5, 1, 2)}
        made |= {f"geometric {q} {n}": q**steps for q in (0.99, 0.95, 0.9, 0.7)}
        made |= {f"wishart {r} {n}": wishart(n, rng, r) for r in (1, 4)}
        made |= {f"near {e} {n}": np.r_[np.linspace(0, 1, n - 6), 4, 4 + 4 * e, 6, 6 + 6 * e, 9, 9 + 9 * e]
                 for e in (1e-1, 1e-2, 1e-4)}  # fmt: skip
        made[f"linear {n}"] = np.linspace(0, 1, n)
        made[f"uniform {n}"] = rng.random(n)
        made[f"normal {n}"] = rng.standard_normal(n)
        made[f"exponential {n}"] = rng.exponential(size=n)
        made[f"heavy {n}"] = rng.standard_t(3, size=n)
        made[f"outliers {n}"] = np.r_[wishart(n - 10, rng, 4), np.linspace(5, 40, 10)]
        made[f"two-sided {n}"] = np.r_[rng.random(n - 8), 8, 6, 4, 3, -2, -2.5, -3, -4]
        made[f"cluster {n}"] = np.r_[wishart(n - 5, rng, 4), 9 + 0.01 * np.arange(5)]
        made[f"triple {n}"] = np.r_[np.linspace(0, 1, n - 5), 9, 9, 9, 5, 4]
    found = {name: (np.sort(values), None) for name, values in made.items()}
    for seed in range(24):
        found[f"network {seed}"] = network(seed, relu=seed % 2 == 0)
    return found


def case(kinds, number, rtol):
    """The arguments of one run: the matrix's name, k, which, the start and the seed."""
    rng = np.random.default_rng([5, number])
    name = list(kinds)[number % len(kinds)]
    gradient = kinds[name][1]
    which, k = ("la", "la", "sa", "be")[rng.integers(4)], (5, int(rng.integers(1, 6)))[rng.integers(2)]
    start = gradient[None] if gradient is not None and rng.random() < 0.5 else None
    return name, k, {"which": which, "rtol": rtol, "start": start, "seed": int(rng.integers(2**31))}


def run(kinds, number, rtol=1e-3, **options):
    """Whether a value is off its rank by more than its error and the tolerance, and whether a certificate is wrong."""
    name, k, arguments = case(kinds, number, rtol)
    values, which = kinds[name][0], arguments["which"]
    operator = MatrixOperator(torch.diag(torch.as_tensor(values.copy())))
    result = eigenvalues(operator, k, **arguments, **options)
    true = {"la": values[::-1][:k], "sa": values[:k], "be": np.r_[values[::-1][:k], values[:k][::-1]]}[which]
    missed = any(
        pair.converged and abs(pair.value - value) > max(pair.error_bound, rtol * abs(value)) + 1e-12
        for pair, value in zip(result.eigenvalues, true, strict=True)
    )
    return name, missed, is_wrong(result, values, k, rtol), result


def is_wrong(result, values, k, rtol):
    """Whether an eigenvalue lies beyond the certificate's limit and is not listed at its rank."""
    limits = getattr(result, "certificate", None)
    for sign, limit in ((1, limits.above), (-1, limits.below)) if limits is not None else ():
        if limit is None:
            continue
        beyond = [v for v in np.sort(sign * values)[::-1] if v > sign * limit + 1e-9]
        pairs = sorted(result.eigenvalues, key=lambda pair: -sign * pair.value)[:k]
        if len(beyond) > len(pairs):
            return True
        for value, pair in zip(beyond, pairs, strict=False):
            if abs(value - sign * pair.value) > max(pair.error_bound, rtol * abs(pair.value)) + 1e-9:
                return True
    return False


def most(expected):
    """What a count with that mean exceeds in less than 1 of 1,000 cases."""
    total, term, number = 0.0, np.exp(-expected), 0
    while total + term < 0.999:
        total, number = total + term, number + 1
        term *= expected / number
    return number


# the target at defaults: fewer missed ranks than 1 in 2,000. Looser tolerances have none, and a limit that a change for
# the worse would pass. A certificate fails with a probability of 1 in 1,000 at most. Beyond these is allowed
# what chance alone brings in 999 of 1,000 cases
@pytest.mark.slow
@pytest.mark.parametrize(("rtol", "target"), [(1e-3, 1 / 2000), (1e-2, 1 / 200), (1e-1, 1 / 200)])
def test_ranks_are_hardly_ever_missed(rtol, target):
    kinds, missed, wrong = spectra(), [], 0
    for number in range(RUNS):
        name, miss, false, _ = run(kinds, number, rtol, independent_start=True)
        wrong += false
        missed += [name] if miss else []
    print(f"{RUNS} runs on {len(kinds)} matrices, rtol {rtol}: {len(missed)} missed {missed}, {wrong} certificates")
    assert len(missed) <= most(target * RUNS)
    assert wrong <= most(1e-3 * RUNS)
