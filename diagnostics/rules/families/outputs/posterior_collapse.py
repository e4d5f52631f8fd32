"""Posterior collapse: a latent variable that carries nothing of the sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diagnostics.causes import Cause
from diagnostics.findings import Evidence, Finding
from diagnostics.records import Absent, StepScalars
from diagnostics.rules.options import Option, Values
from diagnostics.rules.rule import WARNING, Family, Rule
from diagnostics.rules.run_history import RunHistory

DECODER_IGNORES = Cause(
    "decoder-ignores",
    "the regulariser outweighs the gain of the decoder, which predicts from other inputs, such as earlier tokens",
)
_MEANS = ("mu", "mean", "z_mean", "z_mu", "fc_mu", "fc_mean", "to_mu", "mean_head", "mu_head")
_VARIANCES = (
    "logvar",
    "log_var",
    "lv",
    "z_logvar",
    "z_log_var",
    "fc_logvar",
    "fc_log_var",
    "fc_var",
    "to_logvar",
    "logvar_head",
    "log_variance",
)


def find_posterior_collapse(run: RunHistory, options: Values) -> list[Finding]:
    """COLLAPSE002: one finding per pair of modules that give the mean and the log variance of a latent variable.

    Its divergence from a standard normal, per dimension, is (mean^2 + exp(v) - 1 - v) / 2, about mean^2 / 2 + v^2 / 4
    where v, the log variance, is small: it is only judged where it is.
    """
    names = run.steps[-1].modules if run.steps else {}
    pairs = [
        (mean, variance)
        for mean in names
        for variance in names
        if _own(mean) in _MEANS and _own(variance) in _VARIANCES and _parent(mean) == _parent(variance)
    ]
    return [finding for mean, variance in pairs for finding in _judge(run.steps, mean, variance, options)]


def _judge(history: Sequence[StepScalars], mean: str, variance: str, options: Values) -> Iterator[Finding]:
    sizes = [(record.step, _divergence(record, mean, variance)) for record in history]
    known = [(step, size) for step, size in sizes if size is not None]
    last = known[-int(options["min_steps"]) :]
    if len(last) < options["min_steps"] or len(known) < 2 * len(last):
        return
    value = sum(size for _, size in last) / len(last)
    fell = max(size for _, size in last) < 0.5 * known[0][1]
    if fell and all(size < options["below"] for _, size in last):
        message = (
            f"{mean}: it gives nearly the same for all samples, {value:.2g} nats per dimension from the prior"
        )
        evidence = Evidence(COLLAPSE002.metric, value, options["below"], last[0][0], last[-1][0])
        yield COLLAPSE002.finding(mean, message, evidence, DECODER_IGNORES)


def _divergence(record: StepScalars, mean: str, variance: str) -> float | None:
    one, other = (record.modules[name]["output_rms"] for name in (mean, variance))
    if isinstance(one, Absent) or isinstance(other, Absent) or other > 1.0:
        return None
    return one**2 / 2 + other**2 / 4


def _own(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


COLLAPSE002 = Rule(
    "COLLAPSE002",
    WARNING,
    "Posterior collapse",
    "divergence",
    "Give the regulariser less weight, at first or per dimension (free bits), and the decoder less other input.",
    options={
        "below": Option(
            0.01,
            0.0,
            10.0,
            "divergence per dimension below which the latent carries nothing",
            why="16 dimensions then tell fewer than 1.2 values apart; random heads start at 0.02",
        ),
        "min_steps": Option(10, 1, 1e6, "steps needed", whole=True, why="one odd batch is not enough"),
    },
    bound="below",
    source="history",
    history_check=find_posterior_collapse,
    causes=(DECODER_IGNORES,),
    what="Two modules named as mean and log variance (`mu`, `logvar` and the like) give a distribution. Its"
    " divergence from a standard normal fell below half of its first value, and stays low.",
    why="The latent variable is noise, and the model is its decoder alone.",
    example="A text VAE whose decoder sees the tokens before: the divergence is 0 after a few hundred steps.",
    false_alarms="A latent that is not meant to carry anything yet, as in a warm-up of the reconstruction.",
)
FAMILY = Family(105, "Outputs of modules", (COLLAPSE002,))
