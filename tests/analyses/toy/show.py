from curvtool.render.chart_types import Chart, Series

TITLE = "Toy numbers"


def verdict(toy):
    return [f"The largest entry of the gradient is {toy.largest:.3g}."]


def show(toy, console):
    console.print(f"toy table {toy.largest:.3g}")


def csv(toy):
    return ["largest", "error"], [[toy.largest, toy.error]]


def markdown(toy):
    return [f"| toy | {toy.largest:.3g} |"]


def charts(toy):
    return [Chart("Toy chart", "entry", "value", (Series("entry", "points", [0.0], [toy.largest]),), "")]
