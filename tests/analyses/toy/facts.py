from curvtool.report.headline import Headline
from curvtool.report.model import Warning
from curvtool.report.numbers import Number, bound, tag_of

BAND = "Bands: rounding."


def numbers(toy, noise):
    yield Number(f"toy {toy.operator}", "largest entry", bound(toy.largest, toy.error), tag_of(toy.operator, "toy"))


def headline(toy):
    return Headline(toy.largest, toy.largest - toy.error, toy.largest + toy.error)


def words(toy):
    return "Largest entry of the gradient"


def name(toy):
    return "toy"


def not_converged(toy, dtype):
    return Warning(code="CT201", message="the toy did not converge")
