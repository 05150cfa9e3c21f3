"""Small random networks of many kinds, losses near zero included, for sweeps against dense float64 matrices."""

import torch
from torch import nn

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.LeakyReLU)


def network(seed):
    """A model, inputs, targets and a loss by name; half of the losses are saturated or fitted."""
    g = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high, (1,), generator=g))

    num, inputs, width, outputs = number(1, 60), number(1, 8), number(2, 10), number(2, 5)
    activation, deep = ACTIVATIONS[number(0, 4)], bool(number(0, 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(inputs, width), activation()]
        layers += [nn.Linear(width, width), activation()] if deep else []
        model = nn.Sequential(*layers, nn.Linear(width, outputs))
    x = torch.randn(num, inputs, generator=g) * 10.0 ** number(-2, 3)
    loss = ("cross-entropy", "mse", "bce-with-logits")[number(0, 3)]
    easy, factor = bool(number(0, 2)), 10.0 ** number(0, 3)
    with torch.no_grad():
        if loss == "mse":
            y = torch.randn(num, outputs, generator=g)
            return model, x, model(x) + 1e-4 * y if easy else y, loss
        if easy:
            model[-1].weight *= factor
        if loss == "cross-entropy":
            y = torch.randint(0, outputs, (num,), generator=g)
            return model, x, model(x).argmax(1) if easy else y, loss
        y = torch.rand(num, outputs, generator=g).round()
        return model, x, (model(x) > 0).float() if easy else y, loss


def extremes():
    """Models at the edge of what float32 can say, by name: as `network`."""

    def made(layers, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(*layers())

    def scaled(model, factor):
        with torch.no_grad():
            model[-1].weight *= factor
        return model

    def small():
        return [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)]

    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=g)
    model = made(small)
    with torch.no_grad():
        fitted, labels = model(x), model(x).argmax(1)
    dead = made(lambda: [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)])
    with torch.no_grad():
        dead[0].bias -= 1e3
    found = {
        "one class": (made(lambda: [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)]), x, labels * 0, "cross-entropy"),
        "one parameter": (made(lambda: [nn.Linear(1, 1, bias=False)]), x[:, :1], x[:, 1:2], "mse"),
        "one parameter, one sample": (made(lambda: [nn.Linear(1, 1, bias=False)]), x[:1, :1], x[:1, 1:2], "mse"),
        "one sample": (made(small), x[:1], labels[:1], "cross-entropy"),
        "inputs of zero": (made(small), x * 0, labels, "cross-entropy"),
        "a single input of zero": (made(lambda: [nn.Linear(1, 1, bias=False)]), x[:, :1] * 0, x[:, 1:2], "mse"),
        "fitted to the last digit": (model, x, fitted, "mse"),
        "dead units": (dead, x, labels, "cross-entropy"),
    }
    for size in (1e-6, 1e6):
        found[f"inputs of {size:g}"] = (made(small), x * size, labels, "cross-entropy")
        found[f"inputs of {size:g}, squares"] = (made(small), x * size, fitted, "mse")
    for factor in (30.0, 100.0, 300.0, 1000.0):
        for loss, y in (("cross-entropy", labels), ("bce-with-logits", (fitted > 0).float())):
            found[f"{loss} saturated {factor:g}-fold"] = (scaled(made(small), factor), x, y, loss)
            found[f"{loss} saturated {factor:g}-fold, one sample"] = (scaled(made(small), factor), x[:1], y[:1], loss)
    return found
