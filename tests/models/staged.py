"""Models that are trained in stages: images to learn from, and steps of one stage."""

import torch


def striped(spec, n=64):
    """Images of two bright rows each, uint8 ``(n, C, H, W)``, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(n, *spec.shape, dtype=torch.uint8)
    rows = torch.rand(n, spec.height, generator=generator).argsort(1)[:, :2]
    x[torch.arange(n)[:, None], :, rows] = 220
    return x


def train_stage(model, batch, stage, steps, lr=3e-3):
    """The last update, after as many steps."""
    (parameters,) = next(s for s in model.stages() if s.name == stage).groups.values()
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for step in range(steps):
        (update,) = model.updates(batch, stage, step)
        model.zero_grad()
        update.loss.backward(inputs=parameters)
        optimizer.step()
    return update
