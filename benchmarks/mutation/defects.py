"""The defects that are planted, each a short source text and what it becomes; README.md has what caught each.

A text occurs once in the packages, whichever file it is in, so that a defect survives a move. A text that was
renamed since an earlier commit has its earlier form next to it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """A defect that can be planted in the code.

    Attributes:
        name: the name of the defect, a few words.
        area: the area of the code base.
        forms: pairs (text, replacement); the first pair whose text is in the code is used.
    """

    name: str
    area: str
    forms: tuple[tuple[str, str], ...]


def _of(area: str, *defects: tuple[str, str, str]) -> list[Defect]:
    return [Defect(name, area, ((text, replacement),)) for name, text, replacement in defects]


DEFECTS = [
    *_of(
        "model",
        (
            "all cycles of the core have a graph",
            "with torch.no_grad():\n            for _ in range(self.H_cycles - 1):",
            "with torch.enable_grad():\n            for _ in range(self.H_cycles - 1):",
        ),
        (
            "query positions overlap those of the context",
            "positions + self.context_tokens), dim=1)",
            "positions), dim=1)",
        ),
        (
            "a row takes one step too many",
            "halted = (steps >= config.max_steps) |",
            "halted = (steps > config.max_steps) |",
        ),
        (
            "the carry keeps its graph",
            "carry = Carry(z_H=z_H.detach(), z_L=z_L.detach(),",
            "carry = Carry(z_H=z_H, z_L=z_L,",
        ),
        (
            "shares of old and new encoder state are swapped",
            "KEPT * old[name] + (1 - KEPT) * new[name]",
            "KEPT * new[name] + (1 - KEPT) * old[name]",
        ),
        (
            "the divergence has a wrong sign",
            "-0.5 * (1 + logvar - mu.square() - logvar.exp())",
            "-0.5 * (1 + logvar + mu.square() - logvar.exp())",
        ),
        (
            "exploration never draws the longest minimum",
            "torch.randint(2, config.max_steps + 1,",
            "torch.randint(2, config.max_steps,",
        ),
        (
            "answers of rows that left early are in the order of leaving",
            "order = torch.cat([rows for rows, _ in left]).argsort()",
            "order = torch.cat([rows for rows, _ in left])",
        ),
    ),
    *_of(
        "data",
        (
            "quarter turns are not undone",
            "INVERSE_DIHEDRAL = (0, 3, 2, 1,",
            "INVERSE_DIHEDRAL = (0, 1, 2, 3,",
        ),
        (
            "the region has no room for the end token",
            "min(SIDE, 1 + max(query",
            "min(SIDE, max(query",
        ),
        (
            "padding counts as a label",
            "[sample.labels for sample in samples], exists, IGNORE)",
            "[sample.labels for sample in samples], exists, PAD)",
        ),
        (
            "augmentations do not depend on the seed",
            "SeedSequence([seed, *words])",
            "SeedSequence([0, *words])",
        ),
        (
            "a permutation that recolours black is accepted",
            "list(range(COLOURS)) or self.colours[0] != 0:",
            "list(range(COLOURS)):",
        ),
    ),
    *_of(
        "training",
        (
            "the loss is divided by all tokens, scored or not",
            "lm = -(log_p * is_scored).sum(1) / divisor",
            "lm = -(log_p * is_scored).sum(1) / labels.shape[1]",
        ),
        (
            "the halting loss has twice its weight",
            "train.q_halt_weight * self.q_halt.sum()",
            "2 * train.q_halt_weight * self.q_halt.sum()",
        ),
        (
            "the first moment is not corrected for its start at zero",
            "[-lr / (1 - beta1**t) for t in counts]",
            "[-lr for t in counts]",
        ),
        (
            "the warm-up begins a step late",
            "return (step + 1) / config.warmup_steps",
            "return step / config.warmup_steps",
        ),
        (
            "the average is corrected for one update too many",
            "correction = 1 - self.decay**self.updates",
            "correction = 1 - self.decay ** (self.updates + 1)",
        ),
        (
            "gradients are measured and not clipped",
            "torch.nn.utils.clip_grad_norm_(dense, limit)",
            "torch.nn.utils.get_total_norm([p.grad for p in dense if p.grad is not None])",
        ),
        (
            "an infinite gradient of the puzzle table is accepted",
            "if not (math.isfinite(norm or 0.0) and _all_finite(unknown)):",
            "if not math.isfinite(norm or 0.0):",
        ),
        (
            "every micro-batch gets the noise of the first rows",
            "noise=noise[mine.start : mine.stop]",
            "noise=noise[: mine.stop - mine.start]",
        ),
    ),
    *_of(
        "evaluation",
        (
            "halting outweighs votes",
            "(-found[key].votes, -found[key].halting, key)",
            "(-found[key].halting, -found[key].votes, key)",
        ),
        (
            "the k-th candidate is not tried",
            "self.rank is not None and self.rank <= k",
            "self.rank is not None and self.rank < k",
        ),
        (
            "the interval of a share has a level of 90 %",
            "asked: int, level: float = 0.95)",
            "asked: int, level: float = 0.90)",
        ),
        (
            "a deviation is divided by n",
            "for value in values) / (len(values) - 1))",
            "for value in values) / len(values))",
        ),
        (
            "a sample without a prediction is right",
            "if prediction is None or not scored.any():\n        return 0.0",
            "if prediction is None or not scored.any():\n        return 1.0",
        ),
    ),
    *_of(
        "checkpoints",
        (
            "an altered file is read",
            "if _digest(path) != digests[path.name]:",
            "if path.name not in digests:",
        ),
        (
            "one checkpoint too many is kept",
            "path.name <= newest.name][:-keep]",
            "path.name <= newest.name][: -keep - 1]",
        ),
        (
            "a run is resumed with another config",
            "if began != config:",
            "if type(began) is not type(config):",
        ),
        (
            "a run is resumed on other tasks",
            "if known is None or found is None or known == found:",
            "if known is None or found is None or known != found:",
        ),
    ),
    *_of(
        "investigation",
        (
            "effects have the wrong sign",
            "effects = tuple(control - treatment for control, treatment in pairs)",
            "effects = tuple(treatment - control for control, treatment in pairs)",
        ),
        (
            "a run that diverged counts as the best loss",
            "worst = max([KNOWS_NOTHING, *known])",
            "worst = min([KNOWS_NOTHING, *known])",
        ),
        (
            "Holm's correction changes no verdict of a contrast",
            'if p < LARGEST_P or decision.verdict != "VALIDATED":',
            'if p <= 1 or decision.verdict != "VALIDATED":',
        ),
        (
            "the cache key lacks the tasks",
            "json.dumps(asdict(compute_of(config, elsewhere))), *tasks]",
            "json.dumps(asdict(compute_of(config, elsewhere)))]",
        ),
        (
            "the cache key lacks the code",
            "parts = [code]\n    for config in configs:",
            'parts = [""]\n    for config in configs:',
        ),
        (
            "spikes are sought in a window that holds the spike",
            "median(before[-WINDOW:])",
            "median([*before, norm][-WINDOW:])",
        ),
        (
            "the slope of the loss is measured over half the distance",
            "slope = change / (2 * stride * length)",
            "slope = change / (stride * length)",
        ),
    ),
    Defect(
        "steps with partial coverage are not counted",
        "investigation",
        (
            ("none_of(UNCOVERED_STEPS, facts.uncovered_steps)", "none_of(UNCOVERED_STEPS, 0)"),
            ("UNCOVERED_STEPS.row(facts.uncovered_steps,", "UNCOVERED_STEPS.row(0,"),
        ),
    ),
    Defect(
        "a demonstration that is the query itself is accepted",
        "investigation",
        (
            ("if plain == asked:", "if plain is asked:"),
            ("if plain == query:", "if plain is query:"),
        ),
    ),
    *_of(
        "diagnostics",
        (
            "coverage of a sample is that of its first call",
            'sizes.scatter_reduce_(0, torch.cat([rows for rows, _ in pairs]), values, "amax")',
            "sizes.scatter_(0, torch.cat([rows for rows, _ in pairs]).flip(0), values.flip(0))",
        ),
        (
            "Python's random numbers are not put back",
            "random.setstate(python)",
            "random.getstate()",
        ),
        (
            "optimiser state that did not grow counts as grown",
            "was.state_step is None else step > was.state_step",
            "was.state_step is None else step >= was.state_step",
        ),
        (
            "distances to the reference cancel",
            "(now.quantiles - reference.quantiles).abs().mean()",
            "(now.quantiles - reference.quantiles).mean().abs()",
        ),
        (
            "the spread of an output is taken over its elements",
            "torch.sub(rows, total, alpha=1.0 / len(rows)).reshape",
            "torch.sub(rows, rows.sum(1, keepdim=True), alpha=1.0 / rows.shape[1]).reshape",
        ),
        (
            "the last module is named for spikes of outputs",
            'ordered[0] if metric == "output_rms" else ordered[-1]',
            'ordered[-1] if metric == "output_rms" else ordered[0]',
        ),
        (
            "weight decay of zero explains a movement",
            "if isinstance(decay, Absent) or decay > 0.0:",
            "if isinstance(decay, Absent) or decay >= 0.0:",
        ),
        (
            "a module that wastes just the limit is not named",
            'if module.waste >= options["above"]',
            'if module.waste > options["above"]',
        ),
    ),
    Defect(
        "a rule fires one step late",
        "diagnostics",
        (
            ('if run.steps >= options["min_steps"]:', 'if run.steps > options["min_steps"]:'),
            (
                'if run.steps >= options.get("min_steps", 1.0):',
                'if run.steps > options.get("min_steps", 1.0):',
            ),
            (
                'if streak.steps >= options.get("min_steps", 1.0):',
                'if streak.steps > options.get("min_steps", 1.0):',
            ),
        ),
    ),
    *_of(
        "reports",
        (
            "the best loss is the highest",
            "means.min() if key in LOWER_IS_BETTER else means.max()",
            "means.max() if key in LOWER_IS_BETTER else means.min()",
        ),
        ("numbers have three digits", "max(0, 3 - math.floor(", "max(0, 2 - math.floor("),
        (
            "a difference has the wrong sign",
            "'+' if value >= first else '-'",
            "'-' if value >= first else '+'",
        ),
        (
            "a finished run that lacks its last checkpoint is finished",
            "if newest >= steps:",
            "if max(newest, logged) >= steps:",
        ),
        ("the margin of what is ruled out has no sign", "by=m - found.high)", "by=found.high - m)"),
    ),
    *_of(
        "commands",
        (
            "a usage error ends with 1",
            'return int(getattr(error, "exit_code", 2))',
            'return int(getattr(error, "exit_code", 2)) - 1',
        ),
        (
            "checkpoints that differ end with 0",
            "if not found.equal:\n        raise typer.Exit(1)",
            "if not found.equal:\n        raise typer.Exit(0)",
        ),
        (
            "findings of an audit end with 0",
            "code = finish(found, form, bool(out))",
            "code = finish(found, form, bool(out)) and 0",
        ),
        (
            "an investigation with an ERROR ends with 0",
            "if Verdict.ERROR in verdicts:\n        raise typer.Exit(3)",
            "if Verdict.ERROR in verdicts:\n        raise typer.Exit(0)",
        ),
    ),
]
