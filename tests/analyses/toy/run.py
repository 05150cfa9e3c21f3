from analyses.toy.record import Toy

from curvtool.estimators.cost import Meter
from curvtool.operators.memory import peak_bytes
from curvtool.session.common_warnings import add_common_warnings
from curvtool.session.records import cost_record


def run(stage, settings):
    operator = stage.checked_operator("hessian", keep_gradient=True)
    meter = Meter(operator)
    gradient = stage.take_gradient() * stage.grad_norm
    largest = float(gradient.abs().max()) * settings.times
    operator.matvec(gradient)
    add_common_warnings(stage, operator, False, 1.0)
    return Toy(
        operator="hessian", converged=settings.times == 1, largest=largest, error=stage.noise * stage.grad_norm,
        cost=cost_record(meter.cost(), peak_bytes(stage.problem.device)),
    )  # fmt: skip
