from curvtool.planning.needs import Need


def need(settings, operator, space, budget):
    return Need(1.0, 1)
