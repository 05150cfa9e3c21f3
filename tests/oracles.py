"""Dense answers in float64, from torch alone: the whole data in one batch, rows of double backward."""

from __future__ import annotations

import torch
from cases import Case

from curvtool import MatrixOperator, Problem
from curvtool.operators.base import MatrixTerms
from curvtool.operators.terms import Terms


def dense_hessian(case: Case) -> torch.Tensor:
    """The Hessian over the parameters that the problem of the case takes, (P, P)."""
    model, inputs, targets = case.make(torch.float64)
    model.eval()
    names = list(case.problem().parameters)
    parameters = [p for name, p in model.named_parameters() if name in names]
    loss = case.mean_loss(model, inputs, targets)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = []
    for entry in flat:
        if not entry.requires_grad:
            rows.append(torch.zeros_like(flat))
            continue
        row = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([r.reshape(-1) for r in row]))
    return torch.stack(rows).detach()


def dense_jacobian(problem: Problem, model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """dz_i/dx_i of every example by itself, (N, C, d)."""
    model.eval()

    def one(x: torch.Tensor) -> torch.Tensor:
        return model(x[None])[0].reshape(-1)

    return torch.stack([torch.autograd.functional.jacobian(one, x).flatten(1) for x in inputs])


def integral(values, points) -> float:
    """By the trapezoidal rule."""
    return float(torch.trapezoid(torch.as_tensor(values), torch.as_tensor(points)))


def relative(found: torch.Tensor, true: torch.Tensor) -> float:
    """Largest absolute deviation over the largest true entry."""
    return float((found - true).abs().max() / true.abs().max().clamp_min(1e-300))


def _outputs(case: Case):
    """The outputs as (T, C), a row a target, the targets as (T, ...), and the parameters; all data at once."""
    model, inputs, targets = case.make(torch.float64)
    model.eval()
    names = list(case.problem().parameters)
    parameters = [p for name, p in model.named_parameters() if name in names]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    output = output["logits"] if isinstance(output, dict) else output
    if case.loss == "cross-entropy":
        output, targets = output.reshape(-1, output.shape[-1]), targets.reshape(-1)
        output, targets = output[targets != -100], targets[targets != -100]
    return output, targets.reshape(len(output), -1), parameters


def _row_losses(case: Case, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each row, by formulas written out."""
    if case.loss == "cross-entropy":
        return output.logsumexp(1) - output.gather(1, targets)[:, 0]
    if case.loss == "mse":
        return ((output - targets) ** 2).sum(1)
    if case.loss == "bce-with-logits":
        return -(targets * output.sigmoid().log() + (1 - targets) * (1 - output.sigmoid()).log()).sum(1)
    return case.loss(output, targets)


def _weight(case: Case, output: torch.Tensor) -> float:
    if case.options.get("reduction") == "sum":
        return 1.0
    return float(output.numel() if case.loss in ("mse", "bce-with-logits") else len(output))


def _rows(values: torch.Tensor, parameters: list[torch.Tensor]) -> torch.Tensor:
    """The gradient of every entry, (values.numel(), P)."""
    rows = []
    for entry in values.reshape(-1):
        parts = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([p.reshape(-1) for p in parts]))
    return torch.stack(rows)


def dense_gauss_newton(case: Case) -> torch.Tensor:
    """J^T H_out J / W, with J by rows and H_out the Hessian of the summed loss over all outputs."""
    output, targets, parameters = _outputs(case)
    jacobian = _rows(output, parameters)
    middle = torch.autograd.functional.hessian(
        lambda z: _row_losses(case, z.reshape(output.shape), targets).sum(), output.detach().reshape(-1)
    )
    return jacobian.T @ middle @ jacobian / _weight(case, output)


def dense_empirical_fisher(case: Case) -> torch.Tensor:
    """sum_t g_t g_t^T / W."""
    output, targets, parameters = _outputs(case)
    gradients = _rows(_row_losses(case, output, targets), parameters)
    return gradients.T @ gradients / _weight(case, output)


def dense_fisher(case: Case) -> torch.Tensor:
    """sum_t sum_y p(y|x_t) g_t(y) g_t(y)^T / W, the expectation over the targets taken as a sum over the classes."""
    output, _, parameters = _outputs(case)
    total = torch.zeros(())
    log_p = output.log_softmax(1)
    for label in range(output.shape[1]):
        gradients = _rows(-log_p[:, label], parameters)
        total = total + gradients.T @ (log_p[:, label].detach().exp()[:, None] * gradients)
    return total / _weight(case, output)


class OneByOne(MatrixOperator):
    """Its terms multiplied alone, so that a run can be stopped amid a pass.

    Args:
        terms: as for `MatrixOperator`.
        before: is called before every product of a term.
    """

    def __init__(self, terms, before=lambda: None):
        super().__init__(terms)
        self.before = before

    @property
    def terms(self):
        return _Alone(self)


class _Alone(MatrixTerms):
    ranges = Terms.ranges

    def products(self, terms, vectors):
        self.operator.before()
        return super().products(terms, vectors)
