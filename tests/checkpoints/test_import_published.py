"""Published checkpoints in, ours out, and back."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from etrm.batch import Batch
from etrm.checkpoints import export_published as exporting
from etrm.checkpoints import import_published as importing
from etrm.checkpoints.decoder_loading import read_source
from etrm.checkpoints.export_published import export_checkpoint
from etrm.checkpoints.format import Checkpoint, read, save
from etrm.checkpoints.import_published import import_checkpoint
from etrm.checkpoints.weights import read_weights
from etrm.config import Config, ModelConfig
from etrm.device import to_host
from etrm.errors import CheckpointError, ConfigError, EtrmError, WriteError
from etrm.model.encoders import ENCODERS
from etrm.model.recursive import RecursiveModel
from etrm.training.scoring.predictor import load_model
from etrm.training.trainer import Trainer, train
from tests.errors import assert_holds, raises_code
from tests.sampled import one_in

PARITY = Path(__file__).parent.parent / "parity"
CASES = sorted(path.name for path in PARITY.iterdir())
NORM = {"etrm_standard_attention_pre": ()} | dict.fromkeys(("trm", "etrm_lpn_standard"), ())
"""The settings files of the other cases do not say the norm."""
GIVEN = ('model.positions="rope"', "model.num_heads=4", "model.H_cycles=3", "model.L_cycles=2")
GIVEN += ("model.context_tokens=4", "model.halt.max_steps=3")


def norm_of(case: str) -> tuple[str, ...]:
    return NORM.get(case, ('model.encoder.norm="post"',))


def parity(case: str) -> Path:
    return PARITY / case / "weights.safetensors"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def trm_file(folder: Path, name: str = "step_7", **changes: Tensor | None) -> Path:
    """The parity TRM as torch.save writes it, alone in a folder, with tensors changed or left out."""
    named = load_file(parity("trm")) | {f"model.inner.{name}": t for name, t in changes.items()}
    torch.save({name: tensor for name, tensor in named.items() if tensor is not None}, folder / name)
    return folder / name


# -- what is imported computes what it computed -------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("case", CASES)
def test_an_imported_checkpoint_gives_the_published_logits(
    case: str, wrapper: str, tmp_path: Path, published_batch: Callable[[dict[str, np.ndarray]], Batch]
) -> None:
    named = {wrapper + name: tensor for name, tensor in load_file(parity(case)).items()}
    torch.save(named, tmp_path / "step_155718")
    config_file = PARITY / case / "config.json"
    found = import_checkpoint(tmp_path / "step_155718", tmp_path / "run", config_file, norm_of(case))
    checkpoint = read(tmp_path / "run" / "checkpoints" / "step_00000000")

    published = json.loads(config_file.read_text())
    assert found.config.model == ModelConfig.model_validate(checkpoint.state["model_settings"])
    puzzles = published.get("num_puzzle_identifiers", 0)
    model = RecursiveModel(found.config.model, puzzles=puzzles, side=published["canvas"])
    model.load_state_dict(checkpoint.ema)
    batches, expected = (np.load(PARITY / case / f"{name}.npz") for name in ("batches", "expected"))
    first = {name.removeprefix("step0."): batches[name] for name in batches.files if "step0." in name}
    with torch.no_grad():
        _, output = model(model.initial_carry(published["batch_size"]), published_batch(first))
    np.testing.assert_allclose(output.logits, expected["step0.logits"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(output.q_halt, expected["step0.q_halt_logits"], atol=1e-4, rtol=0)


def test_it_says_where_every_setting_is_known_from(tmp_path: Path) -> None:
    file = PARITY / "etrm_standard_mean" / "config.json"
    found = import_checkpoint(
        parity("etrm_standard_mean"),
        tmp_path / "run",
        None,
        (*norm_of("etrm_standard_mean"), "model.H_cycles=5"),
    )
    assert found.config.model.H_cycles == 5
    expected = {
        "H_cycles": "given",
        "encoder.norm": "given",
        "num_heads": str(file),
        "halt.max_steps": str(file),
        "hidden_size": "tensors",
        "encoder.kind": "tensors",
        "encoder.layers": "tensors",
        "context_tokens": "tensors",
        "qk_norm": "published code",
    }
    assert {name: found.sources[name] for name in expected} == expected
    state = read(tmp_path / "run" / "checkpoints" / "step_00000000").state
    assert state["imported"]["settings"] == found.sources
    assert found.config.data.canvas == "published"


def test_a_checkpoint_of_mlp_t_keeps_the_published_norm_over_tokens(tmp_path: Path) -> None:
    config = small(variant="trm", mlp_t=True, mlp_t_norm="tokens")
    file = export_checkpoint(ours(tmp_path, config), tmp_path / "x.pt", "raw", "torch").file
    found = import_checkpoint(file, tmp_path / "run")
    assert found.config.model.mlp_t_norm == "tokens"
    assert found.sources["mlp_t_norm"] == "published code"
    channels = ours(tmp_path / "other", small(variant="trm", mlp_t=True))
    with raises_code(CheckpointError, "export.other-function", "model.mlp_t_norm"):
        export_checkpoint(channels, tmp_path / "y.pt", "raw", "torch")
    assert not (tmp_path / "y.pt").exists()


# -- there and back -----------------------------------------------------------------------------------


def small(variant: str = "etrm", encoder: dict[str, Any] | None = None, **given: Any) -> ModelConfig:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_heads": 2, "expansion": 2.0, "context_tokens": 3}
    own = {} if variant == "trm" else {"layers": 1, **(encoder or {})}
    return ModelConfig(variant=variant, encoder=own, **(sizes | {"layers": 1, "H_cycles": 2} | given))


def any_bits(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Any finite numbers, -0.0 and denormal ones among them."""
    bits = torch.randint(-(2**31), 2**31, tensor.shape, generator=generator, dtype=torch.int64)
    values = bits.to(torch.int32).view(torch.float32)
    return torch.where(values.isfinite(), values, torch.tensor(-0.0))


def ours(folder: Path, config: ModelConfig, seed: int = 0) -> Path:
    """A checkpoint of that model with invented weights, EMA and raw."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        wanted = RecursiveModel(config, puzzles=2).state_dict()
    raw, ema = ({name: any_bits(t, generator) for name, t in wanted.items()} for _ in range(2))
    state = {"model_settings": config.model_dump(mode="json")}
    return save(folder, Checkpoint(1, raw, ema, {}, state), keep=1)


MODELS = [
    *(small(encoder={"kind": kind}) for kind in ENCODERS),
    *(small(encoder={"pooling": pooling, "norm": "pre"}) for pooling in ("weighted", "attention")),
    small(encoder={"kind": "lpn_variational", "latent_size": 5}),
    small(encoder={"kind": "hybrid_standard", "set_layers": 2, "layer_scale": 0.5, "layers": 2}),
    small(variant="trm"),
    small(variant="trm", positions="learned"),
    small(variant="trm", positions="none", layers=2, expansion=40.0),
    small(variant="trm", mlp_t=True, mlp_t_norm="tokens", expansion=1.0),
]


@pytest.mark.parametrize(("weights", "form"), [("ema", "torch"), ("raw", "safetensors")])
@pytest.mark.parametrize("number", one_in(3, range(len(MODELS))))
def test_what_is_exported_and_imported_is_the_same_bit_for_bit(
    tmp_path: Path, number: int, weights: Any, form: Any
) -> None:
    config = MODELS[number]
    source = ours(tmp_path, config, seed=number)
    written = export_checkpoint(source, tmp_path / "out.bin", weights, form)
    found = import_checkpoint(written.file, tmp_path / "run")
    before = read_weights(source, weights).tensors
    after = read_weights(tmp_path / "run", "ema")
    assert (after.kind, after.verified) == ("unknown", True)
    assert after.tensors.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after.tensors[name].view(torch.int32), tensor.view(torch.int32)), name
    latent = config.encoder.latent_size or 16
    encoder = config.encoder.model_copy(
        update={"latent_size": latent} if "latent" in str(list(before)) else {}
    )
    assert found.config.model == config.model_copy(update={"encoder": encoder})


def test_an_expansion_that_nobody_says_gives_the_same_widths(tmp_path: Path) -> None:
    source = ours(tmp_path, small(variant="trm", positions="none", expansion=40.0))
    written = export_checkpoint(source, tmp_path / "x.pt", "raw", "torch")
    settings = json.loads(written.settings.read_text())
    del settings["expansion"]
    written.settings.write_text(json.dumps(settings))
    assert import_checkpoint(written.file, tmp_path / "run").sources["expansion"] == "tensors"


# -- what it is good for ------------------------------------------------------------------------------


@pytest.fixture
def imported(tmp_path: Path, settings_of_smoke: Callable[..., tuple[str, ...]]) -> Path:
    """The parity ETRM as a run folder on invented tasks."""
    given = settings_of_smoke(
        "train.steps=2", "train.batch_size=2", 'data.canvas="region"', "train.warmup_steps=0"
    )
    case = "etrm_standard_mean"
    import_checkpoint(parity(case), tmp_path / "run", None, (*norm_of(case), *given))
    return tmp_path / "run"


def test_a_run_starts_from_an_imported_decoder(imported: Path, smoke: Callable[..., Config]) -> None:
    theirs = load_file(parity("etrm_standard_mean"))
    settings = ("hidden_size=32", "num_heads=4", "layers=2", "H_cycles=3", "L_cycles=2", "expansion=4")
    config = smoke(f'train.decoder="{imported}"', *(f"model.{setting}" for setting in settings))
    for name, tensor in Trainer(config).model.core.state_dict().items():
        assert torch.equal(to_host(tensor), theirs[f"model.inner.{name}"]), name
    with raises_code(CheckpointError, "decoder.other-function", "L_cycles 2", 4):
        Trainer(smoke(f'train.decoder="{imported}"', *(f"model.{s}" for s in settings), "model.L_cycles=4"))


def test_an_imported_model_is_evaluated_and_trained_on(imported: Path) -> None:
    model, config, _, step = load_model(imported, "ema")
    assert step == 0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    theirs = load_file(parity("etrm_standard_mean"))["model.inner.H_init"]
    assert torch.equal(to_host(before["core.H_init"]), theirs)
    assert train(config, imported, resume=True)
    after, *_, step = load_model(imported, "raw")
    assert step == 2
    moved = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "core.lm_head.weight" in moved
    assert "core.H_init" not in moved


def test_a_foreign_puzzle_table_is_neither_trained_on_nor_evaluated(
    tmp_path: Path, settings_of_smoke: Callable[..., tuple[str, ...]]
) -> None:
    """Six rows for six tasks, but whose is which nobody knows. The core is of use."""
    run = tmp_path / "run"
    found = import_checkpoint(parity("trm"), run, None, settings_of_smoke("train.steps=20"))
    for use in (lambda: train(found.config, run, resume=True), lambda: load_model(run, "ema")):
        with raises_code(CheckpointError, "checkpoint.other-puzzle-ids"):
            use()
    assert len(read_source(run, "ema").tensors) == 14


def test_a_run_of_another_model_does_not_take_the_weights(imported: Path) -> None:
    config = json.loads((imported / "config.json").read_text())
    config["model"]["context_tokens"] = 5
    (imported / "config.json").write_text(json.dumps(config))
    with raises_code(CheckpointError, "checkpoint.does-not-fit-config", "query_tokens"):
        train(Config.model_validate(config), imported, resume=True)


# -- what is refused, and changes nothing -------------------------------------------------------------


def refused(file: Path, overrides: tuple[str, ...] = GIVEN, settings_file: Path | None = None) -> EtrmError:
    """The error; nothing was written beside the file."""
    before = left(file.parent)
    with pytest.raises(EtrmError) as caught:
        import_checkpoint(file, file.parent / "run", settings_file, overrides)
    assert left(file.parent) == before
    return caught.value


def test_every_setting_that_nobody_gave_is_named(tmp_path: Path) -> None:
    error = refused(trm_file(tmp_path), ())
    assert error.code == "import.absent-settings"
    assert_holds(error.got, "num_heads, H_cycles, L_cycles, halt.max_steps, context_tokens, positions")
    assert "--set model.H_cycles=..." in error.next_step
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    shown = str(error).replace(str(tmp_path / "step_7"), "trm.pt").splitlines()[:2]
    assert "\n".join(("", f"error: {shown[0]}", shown[1], "")) in page


@pytest.mark.parametrize("name", ["all_config.yaml", "config.json", "step_7.json"])
def test_settings_next_to_the_file_are_found(tmp_path: Path, name: str) -> None:
    values = json.loads((PARITY / "trm" / "config.json").read_text())
    if name.endswith("yaml"):
        lines = [f"  {key}: {str(value).lower()}  # as published" for key, value in values.items()]
        text = "\n".join(["arch:", *lines, "lr: 0.0001", "names:", "- H_cycles"])
    else:
        text = json.dumps({"arch": values, "names": ["H_cycles"]})
    (tmp_path / name).write_text(text)
    found = import_checkpoint(trm_file(tmp_path), tmp_path / "run")
    assert (found.config.model.H_cycles, found.config.model.num_heads) == (3, 4)
    assert found.sources["L_cycles"].endswith(name)


def test_a_name_that_stands_twice_with_two_values_is_not_known(tmp_path: Path) -> None:
    values = json.loads((PARITY / "trm" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"a": values, "b": {"H_cycles": 2}}))
    error = refused(trm_file(tmp_path), ())
    assert error.code == "import.absent-settings"
    assert "H_cycles" in error.got
    assert "," not in error.got  # nothing else is missing


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_a_settings_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    error = refused(trm_file(tmp_path))
    assert error.code == "import.unreadable-settings"
    assert_holds(error.what, tmp_path / "config.json")


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"H_init": None}, "import.no-trm", ["inner.H_init"]),
        ({"H_init": torch.zeros(2, 2)}, "import.no-trm", ["inner.H_init"]),
        ({"H_init": torch.zeros(64)}, "import.does-not-fit", []),
        ({"lm_head.weight": None}, "import.does-not-fit", ["lm_head.weight: missing"]),
        (
            {"lm_head.weight": torch.zeros(11, 32)},
            "import.does-not-fit",
            ["lm_head.weight", (11, 32), (12, 32)],
        ),
        ({"more": torch.zeros(1)}, "import.does-not-fit", ["core.more"]),
        (
            {"lm_head.weight": torch.full((12, 32), float("nan"))},
            "import.not-a-weight",
            ["lm_head.weight", "NaN"],
        ),
        (
            {"lm_head.weight": torch.full((12, 32), float("inf"))},
            "import.not-a-weight",
            ["lm_head.weight", "NaN"],
        ),
        (
            {"lm_head.weight": torch.full((12, 32), 1e-60, dtype=torch.float64)},
            "import.not-a-weight",
            ["lm_head.weight", torch.float64],
        ),
        (
            {"lm_head.weight": torch.zeros(12, 32, dtype=torch.int64)},
            "import.not-a-weight",
            ["lm_head.weight", torch.int64],
        ),
        (
            {"lm_head.weight": torch.zeros(12, 32, dtype=torch.complex64)},
            "checkpoint.bad-tensors",
            ["lm_head.weight", torch.complex64],
        ),
        ({"puzzle_emb.weights": torch.zeros(())}, "import.does-not-fit", ["puzzle_table.weights", ()]),
    ],
)
def test_tensors_that_are_no_trm_are_refused(
    tmp_path: Path, changes: dict[str, Tensor | None], code: str, values: list[object]
) -> None:
    error = refused(trm_file(tmp_path, **changes))
    assert error.code == code
    assert_holds(str(error), *values)


@pytest.mark.parametrize(
    ("given", "kind", "code", "value"),
    [
        (("model.layers=3",), CheckpointError, "import.contradiction", "layers 2"),
        (("model.variant=etrm",), CheckpointError, "import.contradiction", "variant trm"),
        (("model.num_heads=5",), ConfigError, "config.indivisible-heads", "model.num_heads 5"),
        (("model.nonsense=1",), ConfigError, "config.unknown-setting", "'model.nonsense'"),
        (("model=1",), ConfigError, "config.not-a-value", "model"),
        (("data=1",), ConfigError, "config.not-a-value", "data"),
        (("model.expansion=400",), CheckpointError, "import.does-not-fit", "shape"),
    ],
)
def test_settings_that_are_not_of_the_tensors_are_refused(
    tmp_path: Path, given: tuple[str, ...], kind: type[EtrmError], code: str, value: str
) -> None:
    error = refused(trm_file(tmp_path), (*GIVEN, *given))
    assert (type(error), error.code) == (kind, code)
    assert_holds(str(error), value)


def test_bfloat16_is_taken_exactly_and_a_missing_table_is_no_fault(tmp_path: Path) -> None:
    start = torch.randn(32).bfloat16()
    file = trm_file(tmp_path, **{"H_init": start, "puzzle_emb.weights": None})
    found = import_checkpoint(file, tmp_path / "run", None, GIVEN)
    assert torch.equal(found.tensors["core.H_init"], start.float())
    assert "puzzle_table.weights" not in found.tensors


def test_a_pickle_with_code_in_it_does_not_run(tmp_path: Path, bomb: Callable[[Path], object]) -> None:
    exploded = tmp_path / "exploded"
    torch.save(load_file(parity("trm")) | {"x": bomb(exploded)}, tmp_path / "w.pt")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"x": bomb(exploded)}))
    for name in ("w.pt", "w.pkl"):
        error = refused(tmp_path / name)
        assert error.code == "checkpoint.not-a-checkpoint"
        assert_holds(error.what, tmp_path / name)
    assert not exploded.exists()


def test_a_folder_an_empty_file_and_a_folder_that_exists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    for file, code, named in (
        (tmp_path / "folder", "import.folder", "folder"),
        (trm_file(tmp_path), "import.exists", "run"),
    ):
        error = refused(file)
        assert error.code == code
        assert_holds(error.what, tmp_path / named)
    (tmp_path / "run").rmdir()
    for name in ("empty", "none"):
        error = refused(tmp_path / name)
        assert error.code == "checkpoint.not-a-checkpoint"
        assert_holds(error.what, tmp_path / name)


def test_a_folder_that_cannot_be_written_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises_code(CheckpointError, "import.not-writable", tmp_path / "file" / "run"):
        import_checkpoint(trm_file(tmp_path), tmp_path / "file" / "run", None, GIVEN)


def test_an_export_overwrites_nothing_and_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ours(tmp_path, small(variant="trm"))
    (tmp_path / "x.json").write_text("mine")
    with raises_code(CheckpointError, "export.exists", tmp_path):
        export_checkpoint(source, tmp_path / "x.pt", "raw", "torch")
    assert (tmp_path / "x.json").read_text() == "mine"
    for target in (Path(), tmp_path, tmp_path / "x.json" / "y.pt"):
        with raises_code(WriteError, "output.not-writable", target):
            export_checkpoint(source, target, "raw", "torch")
    with raises_code(CheckpointError, "export.name-of-settings", "y.json"):
        export_checkpoint(source, tmp_path / "y.json", "raw", "safetensors")
    with raises_code(CheckpointError, "export.no-checkpoint", parity("trm")):
        export_checkpoint(parity("trm"), tmp_path / "y.pt", "raw", "torch")
    assert left(tmp_path) == ["step_00000001", "x.json"]


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_while_importing_or_exporting_keeps_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = ours(tmp_path, small(variant="trm")), trm_file(tmp_path)
    before = left(tmp_path)
    monkeypatch.setattr(importing.checkpoints, "save", full)
    with raises_code(CheckpointError, "import.not-writable", tmp_path / "run"):
        import_checkpoint(file, tmp_path / "run", None, GIVEN)
    assert left(tmp_path) == before
    write = exporting.write_atomically
    monkeypatch.setattr(
        exporting, "write_atomically", lambda p, c: (write if p.suffix == ".json" else full)(p, c)
    )
    with raises_code(CheckpointError, "export.not-writable", tmp_path / "y.pt"):
        export_checkpoint(source, tmp_path / "y.pt", "raw", "torch")
    assert left(tmp_path) == before


def test_an_altered_checkpoint_is_not_exported(tmp_path: Path) -> None:
    source = ours(tmp_path, small(variant="trm"))
    content = (source / "ema.safetensors").read_bytes()
    (source / "ema.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with raises_code(CheckpointError, "checkpoint.damaged", source, "ema.safetensors"):
        export_checkpoint(source, tmp_path / "x.pt", "ema", "torch")
    assert left(tmp_path) == ["step_00000001"]


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_foreign_file_with_any_bit_flipped_or_cut_anywhere_is_read_or_refused(
    tmp_path: Path, damage: Callable[[st.DataObject, Path], None], data: st.DataObject
) -> None:
    tensors = {"model.inner.H_init": torch.ones(2), "model.inner.q_head.bias": torch.zeros(2)}
    file = tmp_path / "w"
    if data.draw(st.booleans()):
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    damage(data, file)
    try:
        found = read_weights(file, "raw")
    except CheckpointError:
        return
    assert found.tensors
    assert not found.verified
