"""Code from outside that does not do what its place takes: each mistake is an error with what was expected and got."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.config import load as load_config
from etrm.config import with_settings
from etrm.errors import ExtensionError
from etrm.extensions import allow
from etrm.training.trainer import Trainer
from tests.errors import assert_holds, raises_code
from tests.extending.conftest import Etrm

CODE = """
from my_encoder import MyEncoder
from my_variant import NormedContext
from etrm.model.encoders import Encoded, Encoder
from etrm.model.variant import Variant
from etrm.training.faults import Fault
from torch import nn


class Narrow(MyEncoder):
    def read(self, pairs, mask, carried=None):
        return Encoded(super().read(pairs, mask).context[:, :1])


class Bare(MyEncoder):
    def read(self, pairs, mask, carried=None):
        return super().read(pairs, mask).context


class Raising(MyEncoder):
    def read(self, pairs, mask, carried=None):
        return pairs.no_such_method()


class Unread(Encoder):
    def __init__(self, config, side):
        super().__init__()


class Impossible(MyEncoder):
    def __init__(self, config, side):
        raise OSError("no such weights")


class Stray(NormedContext):
    def __init__(self, config, *, puzzles, side):
        super().__init__(config, puzzles=puzzles, side=side)
        self.gate = nn.Linear(2, 2)


class Motionless(Variant):
    def __init__(self, config, *, puzzles, side):
        super().__init__()


class Contextless(NormedContext):
    def __init__(self, config, *, puzzles, side):
        super().__init__(config, puzzles=puzzles, side=side)
        self.context_policy = lambda model, carry, batch: None


class Late(MyEncoder):
    def read(self, pairs, mask, carried=None):
        self.mix = nn.Linear(2, 2)
        return super().read(pairs, mask)


def no_encoder(config, side):
    return nn.Linear(2, 2)


def no_tasks(subset):
    return {}


def odd_tasks(subset):
    return {"odd": {"train": [{"input": [[0]], "output": [[99]]}], "test": []}}


NOTHING = Fault("nothing", "returns nothing", "H4", "here", lambda recipe: None)
"""


def train(settings: dict[str, object]) -> None:
    for value in settings.values():
        allow(str(value))
    names = {"model.encoder.kind": "kind", "model.variant": "variant"}
    model = {names[key]: value for key, value in settings.items() if key in names}
    changes: dict[str, object] = {"model": model if "variant" in model else {"encoder": model}}
    if "data.source" in settings:
        changes = {"data": {"source": settings["data.source"]}}
    if "faults" in settings:
        changes = {"faults": (settings["faults"],)}
    Trainer(with_settings(load_config("smoke"), **changes)).train_step()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "name", "code", "values"),
    [
        ("model.encoder.kind", "Narrow", "extension.wrong-object", ["(8, 1, 32)", "(8, 4, 32)"]),
        ("model.encoder.kind", "Bare", "extension.wrong-object", ["Tensor", "Encoded"]),
        ("model.encoder.kind", "Late", "extension.wrong-object", ["mix.weight", "__init__"]),
        ("model.encoder.kind", "Impossible", "extension.raised", ["OSError", "no such weights"]),
        ("model.encoder.kind", "no_encoder", "extension.wrong-object", ["Linear", "Encoder"]),
        ("model.encoder.kind", "NOTHING", "extension.wrong-object", ["Fault", "Encoder"]),
        ("model.encoder.kind", "Unread", "extension.wrong-object", ["read", "forward"]),
        ("model.variant", "Motionless", "extension.wrong-object", ["step", "forward"]),
        ("model.variant", "Contextless", "variant.no-context", ["NoneType", "Given"]),
        ("model.variant", "Stray", "extension.wrong-object", ["gate.weight", "core"]),
        ("model.variant", "no_tasks", "extension.raised", ["TypeError"]),
        ("data.source", "no_tasks", "extension.wrong-object", ["no task"]),
        ("data.source", "Narrow", "extension.raised", ["TypeError"]),
        ("data.source", "odd_tasks", "task.bad-colour", ["99"]),
        ("faults", "NOTHING", "extension.wrong-object", ["Recipe", "NoneType"]),
        ("faults", "Narrow", "extension.wrong-object", ["Fault", "Narrow"]),
    ],
)
def test_a_mistake_names_what_was_expected_and_got(
    setting: str, name: str, code: str, values: list[str], folder: Path
) -> None:
    (folder / "wrong.py").write_text(CODE)
    kind = ExtensionError if code.startswith(("extension", "variant")) else Exception
    with raises_code(kind, code, *values):  # type: ignore[arg-type]
        train({setting: f"wrong.py:{name}"})


def test_an_exception_in_training_shows_the_users_lines_and_no_traceback_of_ours(
    folder: Path, etrm: Etrm
) -> None:
    (folder / "wrong.py").write_text(CODE)
    done = etrm(
        *["train", "--preset", "smoke", "--out", "runs/a", "--set", "model.encoder.kind=wrong.py:Raising"]
    )
    assert done.code == 2
    line = CODE.splitlines().index("        return pairs.no_such_method()") + 1
    assert f'wrong.py", line {line}' in done.err
    assert "extension.raised" in done.err
    assert "trainer.py" not in done.err


RULES = """
from diagnostics import Cause, Rule, Severity

CAUSE = Cause("a-cause", "a cause")


def rule(id, found):
    words = {"title": "a rule", "metric": "output_rms", "remedy": "Nothing."}
    return Rule(id, Severity.WARNING, check=lambda record, options: found, causes=(CAUSE,), **words)


TAKEN = rule("COV001", ())
NOTHING = rule("MINE001", None)
A_TEXT = rule("MINE002", ["a text"])
"""


@pytest.mark.parametrize(
    ("name", "values"),
    [("TAKEN", ["COV001"]), ("NOTHING", ["MINE001", "None"]), ("A_TEXT", ["MINE002", "a text"])],
)
def test_a_rule_that_the_monitor_refuses_is_an_error_in_training_and_in_an_audit(
    name: str, values: list[str], folder: Path, etrm: Etrm
) -> None:
    (folder / "rules.py").write_text(RULES)
    setting = f'monitor.rules=["rules.py:{name}"]'
    trained = etrm("train", "--preset", "smoke", "--set", setting, "--out", "runs/a")
    assert trained.code == 2
    assert_holds(trained.err, "extension.wrong-object", *values)
    audited = etrm("audit", "my_case.py:make_case", "--rule", f"rules.py:{name}")
    assert audited.code == 2
    assert_holds(audited.err, "audit.bad-case", *values)
    assert not any("Traceback" in done.err for done in (trained, audited))


@pytest.mark.parametrize("returned", ["None", "['a text']"])
def test_a_probe_that_returns_no_findings_is_named_with_what_it_returned(
    returned: str, folder: Path, etrm: Etrm
) -> None:
    code = f"class Mine:\n    rule = 'MINE001'\n    def run(self, model, batch):\n        return {returned}\n"
    (folder / "probe.py").write_text(code)
    done = etrm("audit", "my_case.py:make_case", "--probe", "probe.py:Mine")
    assert done.code == 2
    assert_holds(done.err, "audit.bad-case", "MINE001", returned.strip("[]"))


@pytest.mark.parametrize("name", ["Narrow", "Raising"])
def test_after_a_refused_first_batch_the_same_command_runs_the_repaired_code(
    name: str, folder: Path, etrm: Etrm
) -> None:
    words = ["train", "--preset", "smoke", "--out", "runs/a", "--set", "train.steps=2"]
    words += ["--set", "train.warmup_steps=0", "--set", f"model.encoder.kind=wrong.py:{name}"]
    (folder / "wrong.py").write_text(CODE)
    assert etrm(*words).code == 2
    assert not list((folder / "runs/a/checkpoints").iterdir())
    (folder / "wrong.py").write_text(f"from my_encoder import MyEncoder as {name}")
    assert etrm(*words).code == 0
    assert etrm(*words).code == 2  # the folder now holds a run


def test_a_failure_after_the_first_step_keeps_the_run(folder: Path, etrm: Etrm) -> None:
    later = CODE.replace("pairs.no_such_method()", "super().read(pairs, mask) if next(calls) < 4 else 1 / 0")
    (folder / "wrong.py").write_text(f"import itertools\ncalls = itertools.count()\n{later}")
    words = ["train", "--preset", "smoke", "--out", "runs/a", "--set", "model.encoder.kind=wrong.py:Raising"]
    done = etrm(*words)
    assert done.code == 2
    assert_holds(done.err, "extension.raised")
    assert (folder / "runs/a/metrics.jsonl").read_text()
    again = etrm(*words)
    assert_holds(again.err, "run.exists", "--resume")


def test_resuming_changed_code_needs_permission_and_is_recorded(folder: Path, etrm: Etrm) -> None:
    words = [
        "train",
        "--preset",
        "smoke",
        "--set",
        "train.steps=4",
        "--set",
        "train.warmup_steps=0",
        "--out",
        "runs/a",
    ]
    assert etrm(*words, "--set", "model.encoder.kind=my_encoder.py:MyEncoder").code == 0
    file = folder / "my_encoder.py"
    file.write_text(file.read_text() + "\n# edited\n")
    refused = etrm("train", "--resume", "--out", "runs/a")
    assert (refused.code, "extension.not-allowed" in refused.err) == (2, True)
    assert etrm("train", "--resume", "--out", "runs/a", "--allow-code").code == 0
    record = (folder / "runs" / "a" / "run.json").read_text()
    assert f"code.{file}:MyEncoder" in record
    assert len(list((folder / "runs" / "a" / "code").iterdir())) == 2
