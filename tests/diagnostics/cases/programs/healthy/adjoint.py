"""A differential equation with an adjoint: the forward runs without gradient, an own Function computes it backwards."""

import torch
from torch import nn

torch.manual_seed(0)


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 2))

    def forward(self, t, z):
        return self.net(torch.cat([z, t.expand(len(z), 1)], 1))


class Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, field, steps, *params):
        with torch.no_grad():
            h = 1 / steps
            for k in range(steps):
                z = z + h * field(torch.tensor(k * h), z)
        ctx.field, ctx.steps = field, steps
        ctx.save_for_backward(z)
        return z

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        params = tuple(ctx.field.parameters())
        total = [torch.zeros_like(p) for p in params]
        h = 1 / ctx.steps
        for k in reversed(range(ctx.steps)):
            with torch.enable_grad():
                zz = z.detach().requires_grad_()
                f = ctx.field(torch.tensor(k * h), zz)
                gs = torch.autograd.grad(f, (zz, *params), grad)
            z = z - h * f.detach()
            grad = grad + h * gs[0]
            total = [t + h * g for t, g in zip(total, gs[1:])]
        return grad, None, None, *total


class ODE(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift, self.field, self.head = nn.Linear(2, 2), Field(), nn.Linear(2, 1)

    def forward(self, x):
        return self.head(Solve.apply(self.lift(x), self.field, 6, *self.field.parameters())).squeeze(1)


model = ODE()
opt = torch.optim.Adam(model.parameters(), 1e-2)
for _step in range(50):
    x = torch.randn(64, 2)
    y = x.norm(dim=1) - 1
    loss = (model(x) - y).square().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
print(
    sum(value.double().sum().item() for model in (model,) for value in model.state_dict().values()),
    torch.rand(1),
)
