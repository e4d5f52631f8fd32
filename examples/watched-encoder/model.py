"""A model that answers a query with the help of demonstrations."""

import torch
from torch import Tensor, nn


class Model(nn.Module):
    """An encoder reads the demonstrations, a decoder answers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, width))
        self.decoder = nn.Sequential(nn.Linear(width + 4, width), nn.GELU(), nn.Linear(width, 4))

    def forward(self, demos: Tensor, query: Tensor) -> Tensor:
        """(B, 8) demonstrations and (B, 4) queries to (B, 4) answers."""
        context = self.encoder(demos)
        return self.decoder(torch.cat((context, query), dim=1))
