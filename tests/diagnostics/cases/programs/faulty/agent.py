"""DQN agent with its environment, replay memory, target network and an annealed epsilon."""

import collections
import os
import random

import torch
import torch.nn.functional as F
from torch import nn

FAULT = int(os.environ.get("FAULT", 0))
Transition = collections.namedtuple("Transition", "s a r s2 done")


class Walk:
    def __init__(self, rng):
        self.rng = rng

    def reset(self):
        self.pos, self.t = self.rng.randint(2, 7), 0
        return self.obs()

    def obs(self):
        v = [0.0] * 10
        v[self.pos] = 1.0
        return v

    def step(self, a):
        self.pos = max(0, min(9, self.pos + (1 if a == 1 else -1 if a == 0 else 0)))
        self.t += 1
        done = self.pos in (0, 9) or self.t >= 20
        return self.obs(), float(self.pos == 9), done


class QNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.value, self.advantage = nn.Linear(32, 1), nn.Linear(32, 3)

    def forward(self, x):
        h = self.body(x)
        a = self.advantage(h)
        return self.value(h) + a - a.mean(1, keepdim=True)


class Agent:
    def __init__(self, seed=0):
        self.rng = random.Random(seed)
        torch.manual_seed(seed)
        self.q, self.q_target = QNet(), QNet()
        self.q_target.load_state_dict(self.q.state_dict())
        self.opt = torch.optim.RMSprop(self.q.parameters(), lr=1e-3)
        self.memory = collections.deque(maxlen=500)
        self.steps = self.updates = 0

    def act(self, s):
        eps = max(0.1, 1 - self.steps / 200)
        self.steps += 1
        if self.rng.random() < eps:
            return self.rng.randrange(3)
        with torch.no_grad():
            return self.q(torch.tensor([s])).argmax(1).item()

    def learn(self, batch_size=32, gamma=0.95):
        if len(self.memory) < 64:
            return
        b = Transition(*zip(*self.rng.sample(list(self.memory), batch_size)))
        s, s2 = torch.tensor(b.s), torch.tensor(b.s2)
        a, r, done = torch.tensor(b.a), torch.tensor(b.r), torch.tensor(b.done).float()
        q = self.q(s).gather(1, a[:, None])
        with torch.no_grad():
            target = r + gamma * (1 - done) * self.q_target(s2).max(1).values
        q = q if FAULT == 1 else q.squeeze(1)
        loss = F.smooth_l1_loss(q, target)
        self.opt.zero_grad()
        loss.backward()
        for p in self.q.parameters():
            p.grad.data.clamp_(-1, 1)
        self.opt.step()
        self.updates += 1
        if self.updates % 5 == 0:
            if FAULT == 2:
                self.q.load_state_dict(self.q_target.state_dict())  # the wrong way round
            else:
                self.q_target.load_state_dict(self.q.state_dict())


if __name__ == "__main__":
    agent = Agent()
    env = Walk(agent.rng)
    for _episode in range(40):
        s, done = env.reset(), False
        while not done:
            a = agent.act(s)
            s2, r, done = env.step(a)
            agent.memory.append(Transition(s, a, r, s2, done))
            agent.learn()
            s = s2
            if agent.updates >= 120:
                break
    print(sum(p.double().sum().item() for p in agent.q.parameters()))
