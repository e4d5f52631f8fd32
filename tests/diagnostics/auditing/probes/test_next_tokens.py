"""A monitor sees that a model of the next token attends to it; masks, other targets and encoders are no fault."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Monitor


class Model(nn.Module):
    def __init__(self, causal: bool, own: bool, source: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)
        self.causal, self.own, self.source = causal, own, source

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        if self.source:  # reads the whole sequence, as of the other language
            x = x + F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        if self.own:
            mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
            x = self.layer(x, x, x, attn_mask=mask if self.causal else None, need_weights=False)[0]
        else:
            x = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=self.causal)[
                :, 0
            ]
        return self.head(x)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("causal", "shift", "source", "sees"),
    [(False, 1, False, True), (True, 1, False, False), (False, 0, False, False), (True, 1, True, False)],
)
def test_attention_without_a_mask(own: bool, causal: bool, shift: int, source: bool, sees: bool) -> None:
    torch.manual_seed(0)
    model = Model(causal, own, source)
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 1e-2))
    for _ in range(12):
        words = torch.randint(0, 12, (6, 9))
        ids, target = words[:, :8], words[:, shift : 8 + shift]
        with monitor.step(samples=6):
            F.cross_entropy(model(ids).flatten(0, 1), target.flatten()).backward()
    assert ("LEAK002" in {each.rule for each in monitor.findings()}) == sees
