"""The assertion that the loss responds to every module, and that every module gets gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from diagnostics.auditing.probes.response_probe import judge_responses
from diagnostics.auditing.responses import SIZES, Responses, TermResponse, probe_response, trace_flow
from diagnostics.errors import InvalidValue
from diagnostics.report.tables import cell, text_table
from diagnostics.selection import check_function, check_list, check_patterns, named_by
from diagnostics.testing.failure import CheckFailed


def assert_responds(
    model: nn.Module,
    loss: Callable[[], Tensor | Mapping[str, Tensor | float]],
    *,
    watch: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    regularisers: Sequence[str] = (),
    sizes: Sequence[float] = SIZES,
) -> Responses:
    """The loss changes with the weights of every watched module, and each has gradient. The model is restored.

    Args:
        model: The model.
        loss: Function that runs the forward pass and returns the loss, or its terms by name.
        watch: Names or patterns of modules, as for `Monitor`.
        ignore: Names and patterns of modules that are not judged.
        regularisers: Names of the terms that are not of the task; they are not judged.
        sizes: Sizes of the noise on the weights, relative to the root mean square of each tensor.

    Returns:
        What was measured: module -> term -> response.

    Raises:
        AssertionError: A module's result is unused, cut off from its gradient, or saturated.
        ValueError: No module is left to judge, or a pattern matches nothing.
    """
    __tracebackhide__ = True
    check_function("loss", loss)

    def run(model: nn.Module, batch: None) -> Tensor | Mapping[str, Tensor | float]:
        return loss()

    found = probe_response(model, run, None, watch=watch, sizes=sizes)
    check_list("ignore", ignore)
    check_patterns("ignore", [pattern.removesuffix(".*") for pattern in ignore], found)
    judged = {name: terms for name, terms in found.items() if not named_by(ignore, name)}
    if not any(judged):
        raise InvalidValue("assertions.no-module-responds", "no watched module is left to judge")
    findings = judge_responses(judged, regularisers, trace_flow(model, run, None, watch).feeds)
    if findings:
        causes_first = [each for cause in findings for each in (cause, *cause.consequences)]
        rows = [
            (name or "(model)", term, *_cells(response))
            for name, terms in judged.items()
            for term, response in terms.items()
        ]
        raise CheckFailed(causes_first, text_table(("module", "term", "gradient", "change", "verdict"), rows))
    return found


def _cells(response: TermResponse) -> tuple[str, str, str]:
    gradient = response.gradient if isinstance(response.gradient, str) else "?"
    return gradient, cell(response.change), response.verdict
