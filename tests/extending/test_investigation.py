"""`etrm investigate` on an encoder from outside: a detached output is found, a healthy encoder is not accused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.extending.conftest import Etrm

DETACHED = """
from my_encoder import MyEncoder
from etrm.model.encoders import Encoded


class Detached(MyEncoder):
    def read(self, pairs, mask, carried=None):
        return Encoded(super().read(pairs, mask, carried).context.detach())
"""
QUICK = ("--hypotheses", "H2", "--no-experiments", "--seeds", "1", "--jobs", "1", "--pretrain-steps", "5")


def investigate(etrm: Etrm, kind: str, *options: str, out: str = "runs/why") -> dict[str, Any]:
    words = ("investigate", "--preset", "smoke", "--set", f"model.encoder.kind={kind}", "--out", out)
    done = etrm(*words, *options)
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads(Path(out, "result.json").read_text("utf-8"))
    return result


@pytest.mark.slow
@pytest.mark.processes
def test_a_detached_output_is_named_as_h2_and_a_healthy_encoder_is_not_accused(
    folder: Path, etrm: Etrm
) -> None:
    (folder / "detached.py").write_text(DETACHED)
    result = investigate(etrm, "detached.py:Detached", *QUICK)
    assert (result["root_cause"], result["root_cause_confidence"]) == ("H2", "proven")
    assert list(result["reproduce"]["code"]) == [f"{folder}/detached.py:Detached"]
    healthy = investigate(etrm, "my_encoder.py:MyEncoder", *QUICK, out="runs/healthy")
    assert (healthy["root_cause"], healthy["hypotheses"]["H2"]["verdict"]) == (None, "INVALIDATED")
    # A changed file is another subject, which the folder does not hold.
    (folder / "detached.py").write_text(DETACHED + "\n# edited\n")
    setting = "model.encoder.kind=detached.py:Detached"
    again = etrm("investigate", "--preset", "smoke", "--set", setting, "--out", "runs/why")
    assert (again.code, "investigate.other-code" in again.err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cause"), [("detached.py:Detached", "H2"), ("my_encoder.py:MyEncoder", None)]
)
def test_a_full_investigation(kind: str, cause: str | None, folder: Path, etrm: Etrm) -> None:
    (folder / "detached.py").write_text(DETACHED)
    result = investigate(etrm, kind)
    assert result["root_cause"] == cause
    assert result["hypotheses"]["H2"]["verdict"] == ("VALIDATED" if cause else "INVALIDATED")
