"""Training scripts that know nothing of the toolkit are watched, judged, and left as they are."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diagnostics import Severity
from diagnostics.auditing.scripts import script_watch
from diagnostics.auditing.scripts.live_objects import LiveObjects
from diagnostics.auditing.scripts.script import ScriptAudit, audit_script
from diagnostics.auditing.user_code import CaseError, UserError
from tests.diagnostics.refusals import refused
from tests.sampled import one_in

ROOT = Path(__file__).parents[4]
START = """
import torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 8), nn.Linear(8, 4)
    def forward(self, x):
        return self.decoder(self.encoder(x).relu())

def batches(count=24):
    draws = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(16, 4, generator=draws)
        yield x, x.sin()

net = Net()
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
"""
LOOP = """
for number, (x, y) in enumerate(batches()):
    optimizer.zero_grad()
    loss = (net(x) - y).square().mean()
    loss.backward()
    optimizer.step()
"""
GAN = """
G = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4))
D = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
of_g, of_d = torch.optim.Adam(G.parameters(), 1e-3), torch.optim.Adam(D.parameters(), 1e-3)
for number, (x, _) in enumerate(batches(120)):
    D.zero_grad()
    F.softplus(-D(x)).mean().backward()
    fake = G(torch.randn(16, 3))
    F.softplus(D(fake.detach())).mean().backward()
    of_d.step()
    if number % TURNS == TURNS - 1:
        G.zero_grad()
        F.softplus(-D(fake)).mean().backward()
        of_g.step()
"""
APART = """
encoder, decoder = nn.Linear(4, 8), nn.Linear(8, 4)
of_encoder, of_decoder = torch.optim.Adam(encoder.parameters()), torch.optim.Adam(decoder.parameters())
for x, y in batches(48):
    of_encoder.zero_grad()
    of_decoder.zero_grad()
    (decoder(encoder(x).relu()) - y).square().mean().backward()
    of_encoder.step()
    of_decoder.step()
"""


def write(folder: Path, *parts: str) -> Path:
    path = folder / "train.py"
    path.write_text(START + "".join(parts))
    return path


def faults(found: ScriptAudit) -> set[tuple[str, str, str]]:
    return {(each.rule, each.module, each.code) for each in found.findings if each.severity > Severity.NOTE}


QUIET = {
    "plain": LOOP,
    "gan": GAN.replace("TURNS", "1"),
    "gan with five turns of the critic": GAN.replace("TURNS", "5"),
    "gan whose fake is not detached": GAN.replace("TURNS", "1")
    .replace("fake.detach()", "fake")
    .replace("(D(fake)).mean().backward()", "(D(fake)).mean().backward(retain_graph=True)")
    .replace(
        "        F.softplus(-D(fake))", "        fake = G(torch.randn(16, 3))\n        F.softplus(-D(fake))"
    ),
    "an average that the optimiser holds too": """
import copy
class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.online, self.target = net, copy.deepcopy(net).requires_grad_(False)
    def forward(self, x, noise):
        return self.online(x) - self.target(x + noise)
student = Student()
optimizer = torch.optim.Adam(student.parameters(), 1e-3)
for x, y in batches():
    loss = student(x, 0.1 * torch.randn_like(x)).square().mean() + (net(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for one, other in zip(student.target.parameters(), net.parameters()):
        one.data = 0.99 * one.data + 0.01 * other.data
""",
    "two models and optimisers": APART,
    "two models of one optimiser": APART.replace("of_encoder.", "pass; # ").replace(
        "Adam(decoder.parameters())", "Adam([*encoder.parameters(), *decoder.parameters()])"
    ),
    "accumulation": """
for number, (x, y) in enumerate(batches(96)):
    ((net(x) - y).square().mean() / 4).backward()
    if number % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()
""",
    "evaluation in between, with and without gradients": LOOP
    + """
    net.eval()
    with torch.inference_mode():
        net(x)
    for _ in range(3):
        net(x)
    net.train()
""",
    "a scaler that is disabled": "scaler = torch.amp.GradScaler('cpu', enabled=False)"
    + LOOP.replace("loss.backward()", "scaler.scale(loss).backward()").replace(
        "optimizer.step()", "scaler.step(optimizer)\n    scaler.update()"
    ),
    "a scaler that skips its first updates": "scaler = torch.amp.GradScaler('cpu')"
    + LOOP.replace("loss.backward()", "scaler.scale(loss / (number >= 2)).backward()")
    .replace("optimizer.step()", "scaler.step(optimizer)\n    scaler.update()")
    .replace("batches()", "batches(40)"),
    "a class around the model": """
class Trainer:
    def __init__(self):
        self.inner = net
    def fit(self, x, y):
        optimizer.zero_grad()
        (self.inner(x) - y).square().mean().backward()
        optimizer.step()
trainer = Trainer()
for x, y in batches():
    trainer.fit(x, y)
""",
    "a call of parts alone": LOOP.replace("net(x)", "net.decoder(net.encoder(x).relu())"),
    "the wrong shape is tried before the optimiser is made": """
net = Net()
net(torch.randn(2, 4))
optimizer = torch.optim.SGD(net.parameters(), 0.1)
"""
    + LOOP.replace("batches()", "batches(40)"),
    "closures": """
optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2)
for x, y in batches(40):
    def closure():
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss
    optimizer.step(closure)
""",
    "a compiled model": "compiled = torch.compile(net, fullgraph=True)"
    + LOOP.replace("net(x)", "compiled(x)"),
    "a model for several devices": "net = nn.DataParallel(net)" + LOOP,
    "keyword arguments": LOOP.replace("net(x)", "net(x=x)"),
    "a target network": """
import copy
target = copy.deepcopy(net)
for x, y in batches(48):
    with torch.no_grad():
        action = net(x[:1])
        wanted = 0.9 * target(x) + y
    optimizer.zero_grad()
    (net(x) - wanted).square().mean().backward()
    optimizer.step()
    for one, other in zip(target.parameters(), net.parameters()):
        one.data.lerp_(other.data, 0.05)
""",
    "labels that are written into one tensor": GAN.replace("TURNS", "1")
    .replace("of_g, of_d", "judge = nn.BCEWithLogitsLoss()\nlabel = torch.empty(16)\nof_g, of_d")
    .replace("F.softplus(-D(x)).mean()", "judge(D(x)[:, 0], label.fill_(1))")
    .replace("F.softplus(D(fake.detach())).mean()", "judge(D(fake.detach())[:, 0], label.fill_(0))")
    .replace("F.softplus(-D(fake)).mean()", "judge(D(fake)[:, 0], label.fill_(1))"),
    "a head that learns whether the answer is right": """
head = nn.Linear(4, 1)
optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], 1e-3)
for x, y in batches(40):
    optimizer.zero_grad()
    answer = net(x)
    right = ((answer - y).abs() < 1e-9).all(1)
    known = F.binary_cross_entropy_with_logits(head(answer)[:, 0], right.float())
    ((answer - y).square().mean() + known).backward()
    optimizer.step()
""",
    "a later stage that does without a part": LOOP.replace("batches()", "batches(8)")
    .replace("net(x)", "last(net(x))")
    .replace(
        "\nfor", "\nlast = nn.Linear(4, 4)\noptimizer.add_param_group({'params': last.parameters()})\nfor"
    )
    + """
head = nn.Linear(4, 4)
other = torch.optim.Adam(head.parameters(), 1e-2)
net.requires_grad_(False)
for x, y in batches(40):
    with torch.no_grad():
        code = net(x)
    other.zero_grad()
    (head(code) - y).square().mean().backward()
    other.step()
""",
    "a later stage with an optimiser of its own": LOOP.replace("batches()", "batches(8)")
    + "optimizer = torch.optim.SGD(net.parameters(), 0.05)"
    + LOOP.replace("batches()", "batches(40)"),
}


@pytest.mark.parametrize("name", one_in(3, QUIET))
def test_a_healthy_script_is_quiet(name: str, tmp_path: Path) -> None:
    found = audit_script(write(tmp_path, QUIET[name]))
    assert faults(found) == set()
    assert (len(found.history), found.ending) == (20, "stopped")


FAULTS = {
    "cut": (
        LOOP.replace("net(x)", "net.decoder(net.encoder(x).detach())"),
        ("GRAD001", "encoder", "detached"),
    ),
    "left out": (
        "optimizer = torch.optim.Adam(net.decoder.parameters())" + LOOP,
        ("MOVE001", "encoder", "in-no-group"),
    ),
    "not cleared": (LOOP.replace("optimizer.zero_grad()", "pass"), ("GRAD004", "", "zero-grad-missing")),
    "no backward pass": (LOOP.replace("loss.backward()", "pass"), ("STEP001", "", "no-backward")),
    "no update": (LOOP.replace("optimizer.step()", "pass"), ("MOVE003", "", "no-step-inside")),
    "a short run without an update": (
        LOOP.replace("optimizer.step()", "pass").replace("batches()", "batches(3)"),
        ("MOVE003", "", "no-step-inside"),
    ),
    "neither": (
        LOOP.replace("optimizer.step()", "pass").replace("loss.backward()", "pass"),
        ("STEP001", "", "no-backward"),
    ),
    "clipped late": (
        LOOP + "    nn.utils.clip_grad_norm_(net.parameters(), 0.01)\n",
        ("MOVE007", "", "changed-after-step"),
    ),
    "without gradient before the step": (
        APART.replace("(decoder(", "with torch.no_grad():\n        code = encoder(x)\n    (decoder(").replace(
            "encoder(x).relu()) - y", "code.relu()) - y"
        ),
        ("GRAD001", "encoder", "no-grad"),
    ),
    "a part of no optimiser, outside the model": (
        APART.replace("torch.optim.Adam(encoder.parameters())", "None").replace("of_encoder.", "pass; # "),
        ("MOVE001", "encoder", "in-no-group"),
    ),
    "a model of another object": (
        "net = Net()" + LOOP,
        ("MOVE001", "", "in-no-group"),
    ),
    "an optimiser that is forgotten": (
        APART.replace("of_decoder.step()", "of_encoder.step()"),
        ("MOVE003", "decoder", "no-step-inside"),
    ),
    "an optimiser for each update": (
        LOOP + "    optimizer = torch.optim.Adam(net.parameters(), 1e-2)\n",
        ("MOVE002", "", "outside-optimizer"),
    ),
    "a softmax before cross_entropy": (
        LOOP.replace("(net(x) - y).square().mean()", "F.cross_entropy(net(x).softmax(1), y.argmax(1))"),
        ("LOSS003", "", "applied-twice"),
    ),
    "two optimisers of one model": (
        GAN.replace("TURNS", "1").replace("Adam(G", "Adam(D"),
        ("MOVE001", "G.0", "in-no-group"),
    ),
}


@pytest.mark.parametrize("name", one_in(2, FAULTS))
def test_a_fault_is_named(name: str, tmp_path: Path) -> None:
    script, expected = FAULTS[name]
    found = audit_script(write(tmp_path, script))
    assert expected in faults(found)
    assert not found.clean


def test_the_step_of_the_first_number_that_is_not_finite(tmp_path: Path) -> None:
    script = LOOP.replace("loss.backward()", "(loss * float('inf') if number >= 5 else loss).backward()")
    (found,) = (each for each in audit_script(write(tmp_path, script)).findings if each.rule == "REACH003")
    assert found.evidence.first_step == 5


def test_rounds_of_several_updates_are_steps(tmp_path: Path) -> None:
    assert audit_script(write(tmp_path, LOOP), steps=6).offset == 0
    found = audit_script(write(tmp_path, QUIET["accumulation"]), steps=6)
    assert (len(found.history), found.offset) == (6, 1)
    assert found.last.modules["encoder"].calls_total == 4
    found = audit_script(write(tmp_path, GAN.replace("TURNS", "5")), steps=10)
    assert (len(found.history), found.offset) == (10, 6)
    assert found.last.modules["D.0"].calls_total == 3
    assert set(found.last.modules) == {"D.0", "D.1", "D.2", "G.0", "G.1", "G.2"}


def test_arguments_neighbours_and_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    (folder / "beside_the_script.py").write_text("COUNT = 7\n")
    script = write(
        folder,
        """
import argparse, os, sys
from beside_the_script import COUNT
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    chosen = parser.parse_args()
    assert os.getcwd() != os.path.dirname(os.path.abspath(__file__))
    os.chdir(chosen.folder)
""",
        LOOP.replace("batches()", "batches(COUNT)"),
        "with open('reached', 'w') as file:\n    file.write(sys.argv[0])\nsys.exit(0)\n",
    )
    before = sys.argv, [*sys.path]
    found = audit_script(script, ["--folder", str(out)])
    assert (found.ending, len(found.history), found.clean) == ("exited", 7, True)
    assert (out / "reached").read_text() == str(script)
    assert (sys.argv, sys.path, Path.cwd()) == (*before, tmp_path)
    with refused(CaseError, "script.exited", status=2):
        audit_script(script)


@pytest.mark.parametrize("clause", ["except Exception:", "except BaseException:", "except:"])
def test_a_script_cannot_go_on_after_the_last_step(clause: str, tmp_path: Path) -> None:
    inside = "".join(f"    {line}\n" for line in LOOP.splitlines())
    script = write(tmp_path, f"for _ in range(3):\n  try:\n{inside}  {clause}\n    pass\n")
    found = audit_script(script, steps=4)
    assert (len(found.history), found.ending) == (4, "stopped")


def test_all_steps_are_watched_if_there_is_no_end(tmp_path: Path) -> None:
    found = audit_script(write(tmp_path, LOOP), steps=None)
    assert (len(found.history), found.ending) == (24, "ended")


def test_an_exception_shows_the_users_lines(tmp_path: Path) -> None:
    early = write(tmp_path, LOOP.replace("loss.backward()", "loss.no_such_name()"))
    with pytest.raises(UserError) as raised:
        audit_script(early)
    lines = str(raised.value).splitlines()
    assert f'File "{early}"' in lines[1]
    assert lines[-1].startswith("AttributeError")
    assert "runpy" not in str(raised.value)
    late = write(tmp_path, LOOP, "    assert number < 7, 'too late'\n")
    found = audit_script(late)
    assert (found.ending, len(found.history)) == ("raised", 8)
    assert found.trace.splitlines()[-1] == "AssertionError: too late"
    broken = write(tmp_path, "for:\n")
    with pytest.raises(UserError, match="SyntaxError"):
        audit_script(broken)


@pytest.mark.parametrize(
    ("script", "options", "code"),
    [
        ("print('nothing')\n", {}, "script.no-update"),
        (
            "w = torch.zeros(3, requires_grad=True)\no = torch.optim.SGD([w], 1)\no.step()\n",
            {},
            "script.no-update",
        ),
        ("import sys\nsys.exit('no data')\n", {}, "script.exited"),
        ("import os\nrank = int(os.environ['LOCAL_RANK'])\n", {}, "script.needs-processes"),
        (
            "import torch.distributed as dist\ndist.init_process_group('gloo')\n",
            {},
            "script.needs-processes",
        ),
        (LOOP, {"steps": 0}, "script.too-few-steps"),
        (LOOP, {"watch": ["encodr"]}, "selection.no-match"),
        (LOOP, {"expect_frozen": ["encodr"]}, "selection.no-match"),
        (LOOP, {"expect_partial": ["encodr"]}, "selection.no-match"),
        (LOOP, {"ignore": ["encodr"]}, "selection.no-match"),
    ],
)
def test_what_cannot_be_audited(script: str, options: dict[str, object], code: str, tmp_path: Path) -> None:
    with pytest.raises(CaseError) as raised:
        audit_script(write(tmp_path, script), **options)  # type: ignore[arg-type]
    assert raised.value.code == code


def test_options_of_the_monitor(tmp_path: Path) -> None:
    found = audit_script(write(tmp_path, LOOP), watch=["encoder"], expect_frozen=["encoder"])
    assert list(found.last.modules) == ["encoder"]
    assert {rule for rule, _, _ in faults(found)} == {"FROZEN001"}
    assert audit_script(write(tmp_path, LOOP), expect_frozen=["encoder"], ignore=["FROZEN001"]).clean


PARTIAL = """
class Cycles(nn.Module):
    def __init__(self):
        super().__init__()
        self.core, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, x):
        with torch.no_grad():
            z = self.core(self.core(x).tanh()).tanh()
        return self.head(self.core(x + z).tanh())
net = Cycles()
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
"""


def test_what_is_meant_is_declared(tmp_path: Path) -> None:
    script = write(tmp_path, PARTIAL, LOOP)
    assert faults(audit_script(script)) == {("CALL001", "core", "calls-without-grad")}
    assert audit_script(script, expect_partial=["core"]).clean


def test_a_declaration_may_be_for_one_of_several_stages(tmp_path: Path) -> None:
    later = PARTIAL.replace("net =", "again =").replace("net.", "again.")
    script = write(tmp_path, LOOP.replace("batches()", "batches(8)"), later, LOOP.replace("net(", "again("))
    found = audit_script(script, expect_partial=["again.core"], expect_frozen=["again.head"])
    assert {(rule, module) for rule, module, _ in faults(found)} == {("FROZEN001", "again.head")}


def test_a_loss_that_is_made_in_each_step_costs_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[int] = []

    class Counted(LiveObjects):
        def __init__(self) -> None:
            searches.append(1)
            super().__init__()

    monkeypatch.setattr(script_watch, "LiveObjects", Counted)
    script = write(tmp_path, LOOP.replace("(net(x) - y).square().mean()", "nn.MSELoss()(net(x), y)"))
    assert audit_script(script, steps=None).clean
    assert len(searches) <= 1 + 5  # the model; the loss at calls 1, 2, 4, 8 and 16 of 24


def test_the_output_has_the_end_of_the_script_and_the_next_command(tmp_path: Path) -> None:
    script = write(tmp_path, LOOP)
    found = audit_script(script)
    for form in ("table", "markdown"):
        assert " ".join(found.render(form).split()).startswith(found.summary)
    assert str(script) in found.summary
    (note,) = (each for each in found.findings if each.code == "no-step-function")
    assert f"{script}:FUNCTION" in note.message


DRAWN = """
net.encoder = nn.Sequential(net.encoder, nn.Dropout(0.3), nn.BatchNorm1d(8))
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
if __name__ == "__main__":
    import random, sys
    from torch.utils.data import DataLoader, TensorDataset
    torch.manual_seed(2)
    data = TensorDataset(torch.randn(256, 4))
    context = sys.argv[1] if len(sys.argv) > 1 else None
    loader = DataLoader(data, 16, shuffle=True, num_workers=int(bool(context)), multiprocessing_context=context)
    for epoch in range(2):
        net.train()
        for (x,) in loader:
            x = x + 0.1 * torch.randn_like(x)
            loss = (net(x) - x).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            print(net(data.tensors[0]).sum().item(), random.random())
    torch.save(net.state_dict(), "weights.pt")
"""


def test_weights_are_bit_for_bit_those_of_a_run_without_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = write(tmp_path, DRAWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    runpy.run_path(str(script), run_name="__main__")
    plain = torch.load(tmp_path / "weights.pt")
    (tmp_path / "weights.pt").unlink()
    assert len(audit_script(script, steps=None).history) == 32
    watched = torch.load(tmp_path / "weights.pt")
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_weights_are_bit_for_bit_those_of_a_process_without_us(context: str, tmp_path: Path) -> None:
    script = write(tmp_path, DRAWN)
    weights = []
    for words in (
        ["train.py", context],
        ["-m", "diagnostics", "audit", "--all", "train.py", "--", context],
    ):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        weights.append(torch.load(tmp_path / "weights.pt"))
        (tmp_path / "weights.pt").unlink()
    assert "32 steps watched" in ended.stdout
    plain, watched = weights
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert script.exists()


@pytest.mark.processes
def test_a_script_that_trains_in_processes_of_its_own(tmp_path: Path) -> None:
    starts = "import os, multiprocessing\nworker = multiprocessing.get_context('spawn').Process(target=os.getpid)\n"
    script = write(tmp_path, f"{starts}worker.start()\nworker.join()\n")
    with refused(CaseError, "script.other-processes", count=1):
        audit_script(script)


SCRIPTING = """
@torch.jit.script
def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * half(2 * x)

def halves():
    def inner(x: torch.Tensor) -> torch.Tensor:
        return half(x)
    return torch.jit.script(inner)

for number, (x, y) in enumerate(batches()):
    optimizer.zero_grad()
    (net(double(x)) - halves()(y)).square().mean().backward()
    optimizer.step()
    if number % 8 == 4:
        assert torch.equal(torch.jit.script(net)(x), net(x))
"""


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_a_script_that_compiles_its_model_while_it_trains(tmp_path: Path) -> None:
    helper = "\ndef half(x: torch.Tensor) -> torch.Tensor:\n    return x / 2\n"
    found = audit_script(write(tmp_path, helper, SCRIPTING), steps=None)
    assert len(found.history) == 24
    assert faults(found) == set()
    left_out = "optimizer = torch.optim.Adam(net.decoder.parameters())"
    found = audit_script(write(tmp_path, helper, left_out, SCRIPTING), steps=None)
    assert faults(found) == {("MOVE001", "encoder", "in-no-group")}
