"""A world model, then an actor that is trained through it with its weights held by requires_grad."""

import contextlib

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)


def mlp(i, o):
    return nn.Sequential(nn.Linear(i, 32), nn.ELU(), nn.Linear(32, o))


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.world, self.reward, self.actor, self.critic = mlp(6, 4), mlp(4, 1), mlp(4, 2), mlp(4, 1)


@contextlib.contextmanager
def held(*modules):
    flags = [(p, p.requires_grad) for m in modules for p in m.parameters()]
    for p, _ in flags:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, f in flags:
            p.requires_grad_(f)


agent = Agent()
ow = torch.optim.Adam([*agent.world.parameters(), *agent.reward.parameters()], 1e-3)
oa, oc = torch.optim.Adam(agent.actor.parameters(), 1e-3), torch.optim.Adam(agent.critic.parameters(), 1e-3)
for _step in range(40):
    s, a = torch.randn(32, 4), torch.rand(32, 2) * 2 - 1
    s2 = torch.tanh(s + torch.cat([a, -a], 1))
    r = -s2.square().sum(1, keepdim=True)
    loss = F.mse_loss(agent.world(torch.cat([s, a], 1)), s2 - s) + F.mse_loss(agent.reward(s2), r)
    ow.zero_grad()
    loss.backward()
    ow.step()
    with held(agent.world, agent.reward, agent.critic):
        z, rewards = s, []
        states = []
        for _ in range(3):
            z = z + agent.world(torch.cat([z, torch.tanh(agent.actor(z))], 1))
            states.append(z)
            rewards.append(agent.reward(z))
        ret = rewards[0] + 0.9 * rewards[1] + 0.81 * (rewards[2] + 0.9 * agent.critic(z))
        oa.zero_grad()
        (-ret.mean()).backward()
        oa.step()
    v = F.mse_loss(agent.critic(states[0].detach()), (rewards[1] + 0.9 * rewards[2]).detach())
    oc.zero_grad()
    v.backward()
    oc.step()
print(
    sum(value.double().sum().item() for model in (agent,) for value in model.state_dict().values()),
    torch.rand(1),
)
