"""Code from outside that does not do what its place takes: each mistake is an error with what was expected and got."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.config import load as load_config
from etrm.config import with_settings
from etrm.errors import ExtensionError
from etrm.extensions import allow
from etrm.training.trainer import Trainer
from tests.errors import raises_code
from tests.extending.conftest import Etrm

CODE = """
from my_encoder import MyEncoder
from my_variant import NormedContext
from etrm.model.encoders import Encoded
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


class Impossible(MyEncoder):
    def __init__(self, config, side):
        raise OSError("no such weights")


class Stray(NormedContext):
    def __init__(self, config, *, puzzles, side):
        super().__init__(config, puzzles=puzzles, side=side)
        self.gate = nn.Linear(2, 2)


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
        ("model.encoder.kind", "Impossible", "extension.raised", ["OSError", "no such weights"]),
        ("model.encoder.kind", "no_encoder", "extension.wrong-object", ["Linear", "Encoder"]),
        ("model.encoder.kind", "NOTHING", "extension.wrong-object", ["Fault", "Encoder"]),
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
    kind = ExtensionError if code.startswith("extension") else Exception
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
