"""Curvature of neural networks: Hessian eigenvalues, trace and input-output Jacobian norms, each with its error.

    from curvtool import Problem, Hessian, eigenvalues
    problem = Problem(model, (inputs, targets), "cross-entropy")
    print(eigenvalues(Hessian(problem), k=5).values)

Names are imported at their first use, so that `import curvtool` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curvtool.errors import CurvtoolError, Interrupted
    from curvtool.estimators.density import density
    from curvtool.estimators.diagonal import diagonal
    from curvtool.estimators.eigenvalues import eigenvalues
    from curvtool.estimators.jacobian_directions import jacobian_directions
    from curvtool.estimators.jacobian_norms import jacobian_norms
    from curvtool.estimators.trace import trace
    from curvtool.export.mlflow import to_mlflow
    from curvtool.export.tensorboard import to_tensorboard
    from curvtool.export.wandb import to_wandb
    from curvtool.linalg.space import VectorSpace
    from curvtool.monitor import Monitor
    from curvtool.operators.base import LinearOperator, MatrixOperator, scipy_operator
    from curvtool.operators.deflated import DeflatedOperator
    from curvtool.operators.fisher import EmpiricalFisher, Fisher
    from curvtool.operators.gauss_newton import GaussNewton
    from curvtool.operators.hessian import Hessian
    from curvtool.operators.jacobian import InputJacobian
    from curvtool.operators.mapped import ShiftedOperator
    from curvtool.operators.parameter_jacobian import ParameterJacobian
    from curvtool.operators.preconditioned import PreconditionedOperator
    from curvtool.operators.preflight import preflight_curvature as preflight
    from curvtool.operators.products import hessian, hvp, jacobian, jvp, vjp
    from curvtool.operators.restricted import BlockOperator
    from curvtool.operators.sum import ScaledOperator, SumOperator
    from curvtool.problem.problem import Problem
    from curvtool.report.numbers import numbers
    from curvtool.report.read import read_any as load_report

_PLACES = {
    "CurvtoolError": "errors",
    "Interrupted": "errors",
    "Problem": "problem.problem",
    "LinearOperator": "operators.base",
    "MatrixOperator": "operators.base",
    "VectorSpace": "linalg.space",
    "Hessian": "operators.hessian",
    "GaussNewton": "operators.gauss_newton",
    "Fisher": "operators.fisher",
    "EmpiricalFisher": "operators.fisher",
    "InputJacobian": "operators.jacobian",
    "ParameterJacobian": "operators.parameter_jacobian",
    "SumOperator": "operators.sum",
    "ShiftedOperator": "operators.mapped",
    "PreconditionedOperator": "operators.preconditioned",
    "ScaledOperator": "operators.sum",
    "DeflatedOperator": "operators.deflated",
    "BlockOperator": "operators.restricted",
    "density": "estimators.density",
    "diagonal": "estimators.diagonal",
    "eigenvalues": "estimators.eigenvalues",
    "trace": "estimators.trace",
    "jacobian_directions": "estimators.jacobian_directions",
    "jacobian_norms": "estimators.jacobian_norms",
    "preflight": "operators.preflight:preflight_curvature",
    "scipy_operator": "operators.base",
    "load_report": "report.read:read_any",
    "numbers": "report.numbers",
    "Monitor": "monitor",
    "to_mlflow": "export.mlflow",
    "to_tensorboard": "export.tensorboard",
    "to_wandb": "export.wandb",
    "hvp": "operators.products",
    "jvp": "operators.products",
    "vjp": "operators.products",
    "jacobian": "operators.products",
    "hessian": "operators.products",
}

__all__ = [
    "BlockOperator",
    "CurvtoolError",
    "DeflatedOperator",
    "EmpiricalFisher",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "InputJacobian",
    "Interrupted",
    "LinearOperator",
    "MatrixOperator",
    "Monitor",
    "ParameterJacobian",
    "PreconditionedOperator",
    "Problem",
    "ScaledOperator",
    "ShiftedOperator",
    "SumOperator",
    "VectorSpace",
    "density",
    "diagonal",
    "eigenvalues",
    "hessian",
    "hvp",
    "jacobian",
    "jacobian_directions",
    "jacobian_norms",
    "jvp",
    "load_report",
    "numbers",
    "preflight",
    "scipy_operator",
    "to_mlflow",
    "to_tensorboard",
    "to_wandb",
    "trace",
    "vjp",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place, _, called = _PLACES[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{place}"), called or name)


def __dir__() -> list[str]:
    return sorted(__all__)
