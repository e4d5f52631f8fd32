"""One fault is one finding: its consequences are listed under it, in every form of output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, Monitor, Severity, to_html, to_json, to_markdown, to_sarif, to_table

BATCH = 8


class Chain(nn.Module):
    """embed -> encoder (two layers) -> `between` -> core; `other` also reads the input."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda context: context) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(4, 16)
        self.encoder = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.other = nn.Linear(4, 16)
        self.core = nn.Linear(16, 3)
        self.between = between
        self.beside: Callable[[Tensor], Tensor] = lambda output: output

    def forward(self, x: Tensor) -> Tensor:
        context = self.between(self.encoder(self.embed(x).relu()))
        return self.core(context + self.beside(self.other(x)))


WATCH = ["embed", "encoder", "encoder.0", "other", "core"]


def findings(
    model: Chain, samples: int = BATCH, steps: int = 12, decay: float = 0.0, watch: Sequence[str] = WATCH
) -> list[Finding]:
    """Above a note, after some training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=decay)
    monitor = Monitor(model, optimizer, watch=watch)
    for _ in range(steps):
        with monitor.step(samples=samples):
            model(torch.randn(samples, 4)).square().sum(1).mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    return [finding for finding in monitor.findings() if finding.severity > Severity.NOTE]


def names(found: list[Finding]) -> dict[str, set[str]]:
    """Each finding with what it explains."""
    return {
        f"{finding.rule} {finding.module}": {f"{each.rule} {each.module}" for each in finding.consequences}
        for finding in found
    }


def first_row(context: Tensor) -> Tensor:
    return torch.where((torch.arange(len(context)) == 0)[:, None], context, context.detach())


def test_a_detached_module_stands_for_its_parts_and_for_what_feeds_it() -> None:
    assert names(findings(Chain(lambda c: c.detach()))) == {
        "GRAD001 encoder": {
            *("GRAD001 encoder.0", "GRAD001 embed"),
            *(
                f"{rule} {module}"
                for rule in ("COV001", "COV002")
                for module in ("encoder", "encoder.0", "embed")
            ),
        }
    }


def test_low_coverage_stands_for_waste_and_for_what_feeds_it() -> None:
    found = names(findings(Chain(first_row)))
    assert set(found) == {"COV001 encoder"}
    assert {"WASTE001 encoder", "COV001 encoder.0", "COV001 embed", "WASTE001 embed"} <= found[
        "COV001 encoder"
    ]


def test_a_module_that_few_samples_train_drifts_for_that_reason() -> None:
    model = Chain(first_row)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, watch=["encoder", "core"])
    fixed = torch.randn(BATCH, 16)
    for step in range(60):
        with monitor.step(samples=BATCH):
            model(torch.randn(BATCH, 4)).square().sum(1).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        monitor.probe("encoder", fixed + 0.15 * max(step - 30, 0))
    found = names([each for each in monitor.findings() if each.severity > Severity.NOTE])
    assert found == {"COV001 encoder": {"COV002 encoder", "WASTE001 encoder", "DRIFT001 encoder"}}


class Deep(Chain):
    """What feeds the first of two layers lies further out than the layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Sequential(nn.Linear(16, 16)), nn.Sequential(nn.Linear(16, 16)))


@pytest.mark.parametrize("layer", [0, 1])
def test_a_cause_further_in_stands_for_what_feeds_it_further_out(layer: int) -> None:
    model = Deep()
    cut = model.encoder[layer]
    cut.forward = torch.no_grad()(cut.forward)
    watch = ["embed", "encoder.0.0", "encoder.1.0", "other", "core"]
    fed = {"embed", *(f"encoder.{before}.0" for before in range(layer))}
    found = names(findings(model, watch=watch))
    assert set(found) == {f"GRAD001 encoder.{layer}.0"}
    assert {f"GRAD001 {name}" for name in fed} < found[f"GRAD001 encoder.{layer}.0"]


def test_eval_stands_for_all_modules_that_it_puts_into_evaluation_mode() -> None:
    model = Chain()
    for name in ("embed", "encoder", "other"):
        setattr(model, name, nn.Sequential(getattr(model, name), nn.Dropout(0.1)))
    model.eval()
    found = names(findings(model, watch=["embed", "encoder", "other", "core"]))
    assert found == {"MODE001 embed": {"MODE001 encoder", "MODE001 other"}}


def test_modules_that_were_put_there_at_different_times_stay_apart() -> None:
    model = Chain()
    steps = iter(range(100))
    model.encoder, model.other = (
        nn.Sequential(part, nn.Dropout(0.1)) for part in (model.encoder, model.other)
    )
    model.encoder.eval()
    model.beside = lambda output: (model.other.train(next(steps) < 4), output)[1]
    assert set(names(findings(model, watch=["encoder", "other"]))) == {"MODE001 encoder", "MODE001 other"}


def test_a_faint_gradient_stands_for_what_feeds_the_module_and_for_updates_that_it_makes_too_small() -> None:
    model = Chain(lambda c: 1e-6 * c + (1 - 1e-6) * c.detach())
    rounding = {"REACH007 encoder.0", "REACH007 embed"}
    assert names(findings(model, steps=24)) == {
        "GRAD005 encoder": {"GRAD005 encoder.0", "GRAD005 embed"} | rounding
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, watch=["encoder", "core"])
    for _ in range(24):
        with monitor.step(samples=BATCH):
            model(torch.randn(BATCH, 4)).square().sum(1).mean().backward()
            torch._foreach_mul_([parameter.grad for parameter in model.encoder.parameters()], 1e-4)
            optimizer.step()
            optimizer.zero_grad()
    assert names(monitor.findings(ignore=["RULE001"])) == {
        "GRAD005 encoder": {"MOVE004 encoder", "REACH007 encoder"}
    }


def test_two_faults_next_to_each_other_stay_two() -> None:
    """Both are cut, and neither feeds the other."""
    model = Chain(lambda c: c.detach())
    model.beside = torch.Tensor.detach
    assert set(names(findings(model))) == {"GRAD001 encoder", "GRAD001 other"}


def test_what_loses_more_than_what_it_feeds_has_a_cause_of_its_own() -> None:
    """Half of the rows are lost behind the encoder, and three quarters of the rest before it."""
    half = (torch.arange(BATCH) % 4 != 0)[:, None]
    model = Chain(lambda c: torch.where(half, c, c.detach()))
    one = (torch.arange(BATCH) == 1)[:, None]
    model.encoder.register_forward_pre_hook(lambda m, args: torch.where(one, args[0], args[0].detach()))
    assert {"COV002 encoder", "COV001 embed"} <= set(names(findings(model)))


def test_what_holds_everywhere_is_of_the_whole_model() -> None:
    class HalfTheLoss(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (torch.arange(len(x)) < 2)[:, None]

    (found,) = findings(HalfTheLoss())
    assert (found.rule, found.module) == ("COV001", "")
    assert found.evidence.value == 0.25
    assert found.code == "loss-without-gradient"
    assert len(found.consequences) >= 5
    assert "all 5" in found.message


def test_a_collapse_stands_for_those_behind_it() -> None:
    model = Chain()
    model.beside = lambda output: 0.0 * output
    model.encoder.register_forward_hook(lambda m, args, output: output.mean(0) + 1e-3 * output)
    assert "COLLAPSE001 encoder" in names(findings(model))
    assert "COLLAPSE001 core" not in names(findings(model))


def test_an_earlier_finding_is_no_consequence_of_a_later_one() -> None:
    """The decay moves `other` from the start; what feeds it is cut later."""
    model = Chain()
    steps = iter(range(100))
    model.beside = lambda output: output * 0.0
    model.between = lambda c: c.detach() if next(steps) >= 4 else c
    found = {f"{f.rule} {f.module}": f.evidence.first_step for f in findings(model, decay=0.1)}
    assert found["GRAD002 other"] == 0
    assert found["GRAD001 encoder"] == 4


@pytest.fixture(scope="module")
def folded() -> Finding:
    (found,) = findings(Chain(first_row))
    return found


def test_every_form_of_output_folds(folded: Finding) -> None:
    follows = folded.consequences[0]
    assert len(json.loads(to_json([folded]))[0]["consequences"]) == len(folded.consequences)
    table = to_table([folded]).splitlines()
    assert table[2].startswith("critical")
    assert all(line.startswith("  explains") for line in table[3:])
    assert len(table) == 3 + len(folded.consequences)
    assert f"- Explains:\n  - {follows.rule} {follows.message}" in to_markdown([folded])
    assert f"<summary>Explains {len(folded.consequences)} more</summary>" in to_html([folded])
    (result,) = json.loads(to_sarif([folded]))["runs"][0]["results"]
    assert len(result["relatedLocations"]) == len(folded.consequences)
    assert follows.message in result["relatedLocations"][0]["message"]["text"]


def test_a_choice_of_a_consequence_finds_it_and_an_ignored_cause_takes_it_along() -> None:
    model = Chain(first_row)
    monitor = Monitor(model, watch=WATCH)
    for _ in range(6):
        with monitor.step(samples=BATCH):
            model(torch.randn(BATCH, 4)).square().sum().backward()
    assert {finding.rule for finding in monitor.findings(select=["WASTE001:encoder"])} == {"WASTE001"}
    assert monitor.findings(ignore=["COV001:encoder", "RULE001"]) == []
    (cause,) = monitor.findings(select=["COV001:encoder"], ignore=["WASTE001"])
    assert not any(each.rule == "WASTE001" for each in cause.consequences)
    known = {cause.fingerprint}
    assert monitor.findings(ignore=["RULE001"], baseline=known) == []
