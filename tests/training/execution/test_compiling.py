"""The compiled networks against the plain ones: numbers, names, graphs, hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from etrm.config import Changes, Config, load, with_settings
from etrm.errors import ConfigError, NonFiniteError
from etrm.training.execution.compiling import LEAST_STEPS, LEAST_WIDTH, choose_compilation
from etrm.training.trainer import Trainer, train
from tests.errors import raises_code

Smoke = Callable[..., Config]
pytestmark = [
    # torch's own, of its compiler
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SLOW = "train.lr=1e-4"  # the first steps of these optimisers have the size of the rate, whatever the gradient


@pytest.fixture
def graphs() -> Iterator[Callable[[], int]]:
    """No graph was made before; how many were since."""
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    yield lambda: int(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"]
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def eager_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made, and run by torch itself."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **named: compile_module(self, backend="eager", **named)
    )


def test_without_a_compiler_it_is_refused(smoke: Smoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with raises_code(ConfigError, "train.no-compiler", "g++", "CXX", "train.compile=false"):
        Trainer(smoke("train.compile=true", "train.device=cpu"))
    Trainer(smoke())


PAYS: Changes = {
    "train": {"precision": "bfloat16", "steps": LEAST_STEPS},
    "model": {"hidden_size": LEAST_WIDTH, "num_heads": 8},
}


@pytest.mark.parametrize(
    ("changes", "device", "compiler", "compiled"),
    [
        ({}, "cuda", True, True),
        ({}, "cuda", False, False),
        ({}, "cpu", True, False),
        ({"train": {"steps": LEAST_STEPS - 1}}, "cuda", True, False),
        ({"train": {"precision": "float32"}}, "cuda", True, False),
        ({"train": {"cuda_graphs": True}}, "cuda", True, False),
        ({"model": {"hidden_size": 256}}, "cuda", True, False),
        ({"train": {"compile": False}}, "cuda", True, False),
        ({"train": {"compile": True}}, "cpu", False, True),
    ],
)
def test_by_default_runs_are_compiled_where_it_was_measured_to_pay(
    monkeypatch: pytest.MonkeyPatch, changes: Changes, device: str, compiler: bool, compiled: bool
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if compiler else None)
    config = with_settings(with_settings(load("small"), **PAYS), **changes)
    assert choose_compilation(config, torch.device(device)) is compiled


def test_a_trainer_knows_whether_it_is_compiled(smoke: Smoke) -> None:
    trainer = Trainer(smoke())
    assert trainer.config.train.compile is False


CASES = {
    "etrm": (SLOW,),
    "trm_style in parts": (SLOW, "model.encoder.kind=trm_style", "train.accumulate=2"),
    "trm": (SLOW, "model.variant=trm", "data.augmentations=2", "model.positions=learned"),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_compiled_is_plain_to_rounding(
    smoke: Smoke, graphs: Callable[[], int], settings: tuple[str, ...]
) -> None:
    lines: list[list[dict[str, Any]]] = []
    plain, compiled = (Trainer(smoke(f"train.compile={choice}", *settings)) for choice in ("false", "true"))
    plain._shapes = compiled._shapes  # statistics of outputs count padding
    for trainer in (plain, compiled):
        torch.manual_seed(0)
        lines.append([trainer.train_step() for _ in range(6)])
    assert graphs() > 0
    made = graphs()
    for one, other in zip(*lines, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, float):
                assert other[key] == pytest.approx(value, rel=1e-2, abs=1e-4), key
            else:  # coverage among them
                assert other[key] == value, key
    first, second = plain.model.state_dict(), compiled.model.state_dict()
    assert list(first) == list(second)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-4, msg=name)
    for _ in range(12):  # other lengths and numbers of pairs
        compiled.train_step()
    assert graphs() == made


@pytest.mark.slow
@pytest.mark.usefixtures("eager_backend")
def test_with_static_shapes_nothing_is_compiled_after_the_first_pass_over_the_buckets(
    smoke: Smoke, graphs: Callable[[], int]
) -> None:
    """With the monitor, probes, and rows that begin and end; the graphs are made, and run by torch itself."""
    trainer = Trainer(
        smoke(
            *("train.compile=true", "train.static_shapes=true", "train.batch_size=16"),
            *("data.augmentations=fresh", "model.hidden_size=16", "model.halt.max_steps=3"),
            *("model.layers=1", "model.encoder.layers=1"),
            *("monitor.every=1", "monitor.probe_every=2", "train.lr=1e-3"),
        )
    )
    made: list[int] = []
    lines: list[dict[str, Any]] = []
    for _ in range(12):
        lines.append(trainer.train_step())
        made.append(graphs())
    first_pass = next(step for step in range(12) if {line["bucket"] for line in lines[: step + 1]} == {0, 1})
    assert made[first_pass + 1] == made[-1]  # one step more: a probe has shapes of its own
    assert sum(line["halted_share"] > 0 for line in lines) > 2
    assert all("encoder.coverage" in line for line in lines)
    assert trainer.episodes.buckets == 2


@pytest.mark.usefixtures("eager_backend")
def test_without_static_shapes_four_graphs_serve_all_steps(smoke: Smoke, graphs: Callable[[], int]) -> None:
    """One of the encoder's blocks; of the core without gradient, and with one for the states or also before them."""
    trainer = Trainer(
        smoke(
            *("train.compile=true", "data.augmentations=fresh", "train.batch_size=4"),
            "model.hidden_size=24",  # some length equals the width
            *("model.layers=1", "model.encoder.layers=1", "model.halt.max_steps=3"),
            *("model.H_cycles=2", "model.L_cycles=2", "monitor.every=1", "monitor.probe_every=2"),
        )
    )
    seen = set()
    trainer.model.core.register_forward_pre_hook(lambda core, args: seen.add(args[0].shape[1]))
    for _ in range(8):
        trainer.train_step()
    assert graphs() == 4
    trained = [length for length in seen if length % 8 == 0]
    assert len(trained) > 1
    assert 24 in trained


@pytest.mark.slow
def test_later_runs_find_what_was_compiled(
    smoke: Smoke, graphs: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    counters = torch._dynamo.utils.counters
    for found, absent in (("miss", "hit"), ("hit", "miss")):
        torch._dynamo.reset()
        counters.clear()
        Trainer(smoke("train.compile=true", "model.variant=trm", "data.augmentations=2")).train_step()
        assert graphs() > 0
        assert counters["inductor"][f"fxgraph_cache_{found}"] > 0
        assert counters["inductor"][f"fxgraph_cache_{absent}"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("compiled_first", [True, False])
@pytest.mark.usefixtures("graphs")
def test_a_checkpoint_does_not_know_who_made_it(smoke: Smoke, compiled_first: bool) -> None:
    settings = (SLOW, "monitor.enabled=false")
    whole = Trainer(smoke(*settings))
    torch.manual_seed(0)
    for _ in range(3):
        whole.train_step()
    first = Trainer(smoke(f"train.compile={str(compiled_first).lower()}", *settings))
    torch.manual_seed(0)
    for _ in range(3):
        first.train_step()
    second = Trainer(smoke(f"train.compile={str(not compiled_first).lower()}", *settings))
    second.state.restore(first.state.capture())
    for _ in range(3):
        assert second.train_step()["loss"] == pytest.approx(whole.train_step()["loss"], rel=1e-2)
    ours, theirs = second.state.capture(), whole.state.capture()
    assert list(ours.model) == list(theirs.model)
    for name, value in theirs.model.items():
        torch.testing.assert_close(ours.model[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("graphs")
def test_what_is_not_finite_inside_a_compiled_network_is_named(tmp_path: Path, smoke: Smoke) -> None:
    """The replay is not compiled: the hooks of modules inside are called."""
    layer = "encoder.grid_encoder.layers.0.mlp.down_proj"

    def spoil(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if metrics["step"] == 2:
            trainer.model.get_parameter(f"{layer}.weight").data.fill_(3e38)

    with raises_code(NonFiniteError, "train.nonfinite-loss", layer):
        train(smoke("train.compile=true"), tmp_path / "run", on_step=spoil)
