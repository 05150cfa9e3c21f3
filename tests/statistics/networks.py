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
