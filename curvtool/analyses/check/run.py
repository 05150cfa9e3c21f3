"""The `check` analysis: the preflight alone, and how products can be run."""

from __future__ import annotations

from curvtool.analyses.check.record import Check
from curvtool.analyses.check.settings import Settings
from curvtool.estimators.cost import Meter
from curvtool.operators.memory import peak_bytes
from curvtool.session.common_warnings import add_common_warnings
from curvtool.session.records import cost_record
from curvtool.session.stage import Stage


def run(stage: Stage, analysis: Settings) -> Check:
    """What the preflight finds, each way to run a product with its time, and what a batch takes."""
    operator = stage.checked_operator(analysis.operator)
    meter = Meter(operator)
    stage.observer.begin("ways to run a product")
    execution = operator.execution
    calibration = execution.calibration if execution.is_approximate else execution.calibrate_thoroughly()
    add_common_warnings(stage, operator, False, 1.0)
    zero = calibration.seconds == {} and calibration.rejected == {}
    return Check.of(
        calibration,
        operator,
        operator=analysis.operator,
        converged=True,
        seconds_by_mode={str(way): seconds for way, seconds in calibration.seconds.items()},
        rejected_modes={str(way): reason for way, reason in calibration.rejected.items()},
        calibration_samples=calibration.num_samples,
        cost=cost_record(meter.cost(), peak_bytes(stage.problem.device)),
        unavailable={"seconds_by_mode": "--hvp was given, nothing was timed"} if zero else {},
    )
