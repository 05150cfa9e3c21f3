"""The ranks of listed eigenvalues, and how far out the eigenvalue of a rank may lie."""

from __future__ import annotations

import math
from collections.abc import Iterator

from curvtool.analyses.eigs.record import Certificate, Eigenvalue, Eigs, LayerEigenvalue
from curvtool.report.ranks import End, Rank, outward


def ranks(eigs: Eigs) -> list[int]:
    """1, 2, … in the order of `which`; of both ends the lower half as …, -2, -1, counted from the smallest."""
    num = len(eigs.eigenvalues)
    above = -(-num // 2) if eigs.which == "be" else num
    return [*range(1, above + 1), *range(above - num, 0)]


def ranks_of(eigs: Eigs) -> Iterator[Rank]:
    """Of its eigenvalues, in their order."""
    pairs = dict(zip(ranks(eigs), eigs.eigenvalues, strict=True))
    for place, pair in pairs.items():
        before = pairs.get(place - 1 if place > 0 else place + 1)
        yield _rank(eigs, _end_of(eigs.which, below=place < 0), pair, before, eigs.certificate)


def rank_of_layer(eigs: Eigs, layer: LayerEigenvalue) -> Rank:
    """Of a layer's leading eigenvalue."""
    return _rank(eigs, _end_of(eigs.which), layer, None, layer.certificate)


def _rank(
    eigs: Eigs,
    end: End,
    pair: Eigenvalue | LayerEigenvalue,
    before: Eigenvalue | None,
    certificate: Certificate | None,
) -> Rank:
    reach = outward(pair.value, end) + pair.error_bound
    known = _limit(certificate, end)
    if known is not None:
        return Rank(end=end, limit=max(reach, known))
    apart = max(eigs.rtol * abs(pair.value), eigs.atol, pair.error_bound)
    ahead = -math.inf if before is None else outward(before.value, end) + before.error_bound
    return Rank(end=end, limit=max(outward(pair.value, end) + apart, ahead), apart=apart)


def _end_of(which: str, below: bool = False) -> End:
    return "magnitude" if which == "lm" else "smallest" if which == "sa" or below else "largest"


def _limit(certificate: Certificate | None, end: End) -> float | None:
    """Outward, beyond what the list lacks none; None where nothing is known."""
    if certificate is None:
        return None
    above, below = certificate.above, certificate.below
    if end == "magnitude":
        return None if above is None or below is None else max(above, -below)
    return above if end == "largest" else None if below is None else -below
