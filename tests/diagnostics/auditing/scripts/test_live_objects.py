"""What exists in a program is found, with the names that the program gives it."""

from __future__ import annotations

import torch
from torch import nn

from diagnostics.auditing.scripts.live_objects import LiveObjects, held_by


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critics = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 1)])


class Trainer:
    def __init__(self, model: nn.Module) -> None:
        self.network = model


def test_optimizers_by_what_they_hold() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.SGD([model.weight], 0.1)
    assert LiveObjects().holding(model.parameters()) == [optimizer]
    assert LiveObjects().holding(other.parameters()) == []
    assert held_by([optimizer]) == {id(model.weight)}


def test_the_outermost_module_of_the_users_own() -> None:
    agent = Agent()
    layers = nn.Sequential(nn.Linear(2, 2))
    apart = nn.Sequential(agent.actor)
    live = LiveObjects()
    assert live.owner(agent.critics[0]) is agent
    assert live.owner(layers[0]) is layers[0]  # a list of layers may be one of unrelated models
    assert live.owner(agent.actor) is agent
    assert live.owner(apart) is apart


def test_the_name_of_a_variable_an_attribute_a_member_or_a_class() -> None:
    policy = nn.Linear(2, 2)
    trainer = Trainer(nn.Linear(2, 2))
    players = nn.ModuleDict({"critic": nn.Linear(2, 2)})
    live = LiveObjects()
    assert live.name(policy) == "policy"
    assert live.name(trainer.network) == "network"
    assert live.name(players["critic"]) == "players_critic"
    assert live.name(nn.Linear(2, 2)) == "Linear"
