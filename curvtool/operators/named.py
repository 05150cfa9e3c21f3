"""The matrices by the names that `--operator` knows."""

from __future__ import annotations

from curvtool.operators.curvature import CurvatureOperator
from curvtool.operators.fisher import EmpiricalFisher, Fisher
from curvtool.operators.gauss_newton import GaussNewton
from curvtool.operators.hessian import Hessian

OPERATORS: dict[str, type[CurvatureOperator]] = {
    operator.name: operator for operator in (Hessian, GaussNewton, Fisher, EmpiricalFisher)
}
