"""The config tree: closed, cross-checked, and never an error that is not a ConfigError."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from etrm.config import Config, build, list_presets, load, override, with_overrides
from etrm.config import tree as subject
from etrm.errors import ConfigError
from tests.errors import raises_code


def dotted_keys(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in tree.items():
        keys.append(prefix + name)
        if isinstance(value, dict):
            keys += dotted_keys(value, f"{prefix}{name}.")
    return keys


KEYS = dotted_keys(Config().model_dump(mode="json"))


def test_presets_all_load() -> None:
    assert {"smoke", "small"} <= set(list_presets())
    for name in list_presets():
        config = load(name)
        assert config.preset == name
        assert Config.from_json(config.to_json()) == config


def test_no_preset_gives_the_defaults() -> None:
    assert load() == Config()


def test_unknown_preset_names_the_nearest() -> None:
    with raises_code(ConfigError, "config.unknown-preset", "did you mean 'small' or 'smoke'?"):
        load("smol")  # as near to 'symbolic', which is much longer
    with raises_code(ConfigError, "config.unknown-preset", repr("smal"), repr("small"), "smoke"):
        load("smal")


def test_preset_and_file_together_are_refused(tmp_path: Path) -> None:
    with raises_code(ConfigError, "config.preset-and-file", "--preset", "--config"):
        load("small", tmp_path / "any.toml")


@pytest.mark.parametrize(
    ("setting", "unknown", "nearest"),
    [
        ("train.stpes=3", "train.stpes", "train.steps"),
        ("trian.steps=3", "trian", "train"),
        ("model.halt.max_step=3", "model.halt.max_step", "model.halt.max_steps"),
        ("data.max_demo=3", "data.max_demo", "data.max_demos"),
        ("evaluate.weight=ema", "evaluate.weight", "evaluate.weights"),
    ],
)
def test_unknown_key_names_the_nearest(setting: str, unknown: str, nearest: str) -> None:
    with raises_code(ConfigError, "config.unknown-setting", repr(unknown), repr(nearest)):
        load("smoke", overrides=(setting,))


def test_every_key_at_fault_is_named() -> None:
    with raises_code(
        ConfigError, "config.several-problems", "train.stpes", "data.max_side", "model.hidden_size"
    ) as caught:
        load(overrides=("train.stpes=3", "data.max_side=31", "model.hidden_size=a"))
    assert caught.value.codes == ("config.unknown-setting", "config.invalid-value", "config.invalid-value")


def test_every_problem_of_a_section_has_its_own_code() -> None:
    with raises_code(ConfigError, "config.several-problems", "train.steps", "train.lr", 2) as caught:
        load(overrides=("train.steps=0", "train.lr=-1"))
    assert caught.value.codes == ("config.invalid-value", "config.invalid-value")
    with raises_code(ConfigError, "config.several-problems", 2) as caught:
        load(
            overrides=(
                "model.hidden_size=10",
                "model.num_heads=4",
                "data.store=x",
                "data.augmentations=fresh",
            )
        )
    assert caught.value.codes == ("store.fresh-augmentations", "config.indivisible-heads")


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        (("model.hidden_size=10", "model.num_heads=4"), "config.indivisible-heads", [10, 4]),
        (("model.hidden_size=12", "model.num_heads=4"), "config.odd-head-size", [3]),
        (("train.steps=10", "train.warmup_steps=11"), "config.warmup-beyond-run", [11, 10]),
        (("evaluate.checkpoint=best",), "config.best-without-evaluations", ["best"]),
        (("train.batch_size=6", "train.accumulate=4"), "config.indivisible-parts", [6, 4]),
        (
            ("data.curriculum=[[5, 60], [10, 140]]",),
            "config.curriculum-steps",
            [200, 1000, "[[5, 300], [10, 700]]"],
        ),
        (
            ("data.curriculum=[[9, 10]]", "train.steps=10", "data.max_side=8"),
            "config.curriculum-beyond-data",
            [9, 8],
        ),
        (("train.lr=0",), "config.nothing-trains", ["train.lr"]),
        (
            ("train.steps=5", "train.freeze_decoder_steps=5", "train.encoder_lr_scale=0"),
            "config.nothing-trains",
            ["train.encoder_lr_scale"],
        ),
        (
            ("model.variant=trm", "train.puzzle_lr=0", "train.steps=5", "train.freeze_decoder_steps=5"),
            "config.nothing-trains",
            ["train.puzzle_lr"],
        ),
        (
            ("train.steps=5", "train.freeze_encoder_steps=5", "train.lr=0"),
            "config.nothing-trains",
            ["train.freeze_encoder_steps"],
        ),
        (
            ("train.freeze_decoder_steps=2", "train.freeze_encoder_steps=3"),
            "config.both-stages",
            ["train.freeze_decoder_steps", "train.freeze_encoder_steps"],
        ),
        (
            ("model.variant=trm", "train.freeze_encoder_steps=3"),
            "config.frozen-encoder-of-trm",
            ["train.freeze_encoder_steps"],
        ),
        (
            ("model.variant=trm", "data.augmentations=fresh"),
            "config.fresh-augmentations-of-trm",
            ["data.augmentations", "'fresh'"],
        ),
        (
            ("data.queries=demos",),
            "config.invalid-value",
            ["data.queries", "'test', 'leave_one_out' or 'all'", "'demos'"],
        ),
        (("train.steps=true",), "config.invalid-value", ["train.steps", True]),
        (("train.lr=false",), "config.invalid-value", ["train.lr", False]),
        (("train.clip_norm=true",), "config.invalid-value", ["train.clip_norm", True]),
        (("data.augmentations=true",), "config.invalid-value", ["data.augmentations", True]),
        ((r'train.decoder="a\u0000b"',), "config.invalid-value", ["train.decoder", r"'a\x00b'"]),
        ((r'data.source="\u0000"',), "config.invalid-value", ["data.source", r"'\x00'"]),
        (("train.steps=1\ntrain.lr=2",), "config.several-lines", [r"'1\ntrain.lr=2'", "--set"]),
        (("data.augmentations=0",), "config.invalid-value", ["data.augmentations", "'fresh'", 0]),
        (("train.kl_weight=0.1",), "config.kl-without-latent", [0.1, "lpn_variational"]),
        (
            ("train.kl_weight=0.1", "model.encoder.kind=lpn_variational", "model.variant=trm"),
            "config.kl-without-latent",
            [0.1],
        ),
        (("train.entropy_weight=0.1",), "config.entropy-without-templates", [0.1, "'symbolic'"]),
        (
            ("model.mlp_t=true",),
            "config.mlp-without-whole-canvas",
            ["data.canvas", "'published'", "'region'"],
        ),
        (("model.mlp_t_norm=tokens",), "config.token-norm-without-mlp", ["model.mlp_t_norm"]),
        (
            ("model.mlp_t=true", "data.canvas=published", "model.qk_norm=true"),
            "config.qk-norm-without-attention",
            ["model.qk_norm", "model.mlp_t"],
        ),
        (
            ("model.positions=sinus",),
            "config.invalid-value",
            ["model.positions", "'rope', 'learned' or 'none'", "'sinus'"],
        ),
        (
            ("train.loss=hinge",),
            "config.invalid-value",
            ["train.loss", "'stablemax' or 'softmax'", "'hinge'"],
        ),
        (("train.lr=nan",), "config.invalid-value", ["train.lr", "nan"]),
        (("train.lr=inf",), "config.invalid-value", ["train.lr", "inf"]),
        (("data.translate=30",), "config.invalid-value", ["data.translate", 30]),
        (("train.clip_norm=0",), "config.invalid-value", ["train.clip_norm", 0]),
        (
            ("train.optimizer=sgd",),
            "config.invalid-value",
            ["train.optimizer", "'adam_atan2' or 'adamw'", "'sgd'"],
        ),
        (("model=3",), "config.not-a-value", ["model", 3]),
        (("data.augmentations=some",), "config.invalid-value", ["data.augmentations", "'fresh'", "'some'"]),
        (("data.exclude=[1]",), "config.invalid-value", ["data.exclude.0", 1]),
    ],
)
def test_impossible_settings_are_refused(settings: tuple[str, ...], code: str, values: list[object]) -> None:
    with raises_code(ConfigError, code, *values):
        load(overrides=settings)


@pytest.mark.parametrize(
    "settings",
    [
        ("model.variant=trm", "data.queries=all"),
        ("data.queries=all",),
        ("data.queries=leave_one_out",),
        ("data.exclude=['a',\n'b']",),  # one value, on two lines
        ("train.steps=5", "train.warmup_steps=5"),
        ("train.steps=5", "train.freeze_decoder_steps=5"),  # the encoder alone
        ("train.steps=5", "train.freeze_encoder_steps=5"),
        ("train.lr=0", "model.variant=trm"),  # the puzzle table alone
        ("train.encoder_lr_scale=0",),  # the decoder alone
        ("train.kl_weight=0.1", "model.encoder.kind=lpn_variational"),
        ("model.mlp_t=true", "data.canvas=published"),
        ("model.mlp_t=true", "model.mlp_t_norm=tokens", "data.canvas=published"),
        ("model.mlp_t=true", "data.canvas=published", "model.positions=learned"),
    ],
)
def test_borderline_settings_are_accepted(settings: tuple[str, ...]) -> None:
    load(overrides=settings)


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().train.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.lr=1e-3", 1e-3),
        ("train.lr = 1e-3 ", 1e-3),
        ("train.clip_norm=none", None),
        ("train.clip_norm=null", None),
        ("model.positions=none", "none"),
        ("data.source=some/folder", "some/folder"),
        ("data.source='a = b'", "a = b"),
        ("data.augmentations=fresh", "fresh"),
        ("data.augmentations=8", 8),
        ("model.encoder.qk_norm=true", True),
        ('train.allow_decoder_mismatch=["H_cycles"]', ("H_cycles",)),
        ("train.decoder=a/b.safetensors", Path("a/b.safetensors")),
    ],
)
def test_an_override_is_read_as_toml_or_as_a_bare_word(setting: str, value: object) -> None:
    node: Any = load(overrides=(setting,))
    for part in setting.partition("=")[0].strip().split("."):
        node = getattr(node, part)
    assert node == value


def test_the_last_override_wins_and_the_tree_given_is_untouched() -> None:
    tree = {"train": {"steps": 1}}
    assert override(tree, ("train.steps=2", "train.steps=3")) == {"train": {"steps": 3}}
    assert tree == {"train": {"steps": 1}}


def test_overrides_of_a_config_are_checked_again() -> None:
    config = load("small")
    assert with_overrides(config, ("train.lr=1e-3",)).train.lr == 1e-3
    assert with_overrides(config, ()) == config
    with raises_code(ConfigError, "config.nothing-trains"):
        with_overrides(config, ("train.lr=0",))


@pytest.mark.parametrize("text", ["", "train.lr", "=3", "  =3"])
def test_a_malformed_override_shows_the_form(text: str) -> None:
    with raises_code(ConfigError, "config.unreadable-setting", repr(text), "section.key=value"):
        load(overrides=(text,))


def test_an_override_below_a_value_is_refused() -> None:
    with raises_code(ConfigError, "config.not-a-section", repr("encoder")):
        load(overrides=("model.encoder=3", "model.encoder.layers=2"))


def test_a_file_is_read_and_its_errors_name_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nsteps = 7\n")
    assert load(path=path, overrides=("train.lr=1e-3",)).train.steps == 7
    with raises_code(ConfigError, "config.unreadable-file", tmp_path / "absent.toml"):
        load(path=tmp_path / "absent.toml")
    for broken in (b"[train\n", b"\xff\xfe", b"a = " + b"1" * 5000, b"a = " + b"[" * 9000):
        path.write_bytes(broken)
        with raises_code(ConfigError, "config.not-toml", path):
            load(path=path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"train": {"lr": NaN}}', '{"x": ' + "1" * 5000 + "}"]
)
def test_from_json_refuses_what_is_no_config(text: str) -> None:
    with pytest.raises(ConfigError):
        Config.from_json(text)


def test_json_is_stable_and_sorted() -> None:
    text = load("small", overrides=("train.decoder=a.safetensors", "faults=['a']")).to_json()
    assert Config.from_json(text).to_json() == text
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def attempt(make: Any) -> None:
    """A Config that survives its own JSON, or a ConfigError; anything else fails the test."""
    try:
        config = make()
    except ConfigError:
        return
    assert Config.from_json(config.to_json()) == config


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["trm", "all", "fresh"]),
)
NAMES = st.one_of(
    st.sampled_from(sorted({part for key in KEYS for part in key.split(".")})), st.text(max_size=6)
)
TREES = st.recursive(
    LEAVES,
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(NAMES, below, max_size=4)),
    max_leaves=12,
)
SETTINGS = st.one_of(
    st.text(max_size=20),
    st.builds("{}={}".format, st.one_of(st.sampled_from(KEYS), st.text(max_size=10)), st.text(max_size=12)),
    st.builds("{}={}".format, st.sampled_from(KEYS), st.one_of(st.integers(-2, 40), st.floats(), LEAVES)),
)


@given(st.dictionaries(NAMES, TREES, max_size=5))
def test_any_tree_gives_a_config_or_a_config_error(tree: dict[str, Any]) -> None:
    attempt(lambda: build(tree))


@given(st.lists(SETTINGS, max_size=4).map(tuple), st.sampled_from([None, *list_presets()]))
@example(("train.lr=" + "1" * 5000,), None)
@example(("train.lr=" + "[" * 5000,), None)
@example(("data.source=\ud800",), None)
@example(("data.\ud800=1",), None)
@example((".=1", "..=2"), "small")
def test_any_override_gives_a_config_or_a_config_error(settings: tuple[str, ...], preset: str | None) -> None:
    attempt(lambda: load(preset, overrides=settings))


@given(st.text(max_size=40))
def test_any_text_as_json_gives_a_config_or_a_config_error(text: str) -> None:
    attempt(lambda: Config.from_json(text))


PRESETS = [(resources.files("etrm") / "presets" / f"{name}.toml").read_bytes() for name in list_presets()]


@st.composite
def toml_files(draw: st.DrawFn) -> bytes:
    """A preset with some bytes changed, cut out or repeated; or any bytes."""
    content = bytearray(draw(st.sampled_from(PRESETS)))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(content))), draw(st.integers(0, 20))
        token = st.sampled_from(
            [b"[", b"]]", b'"', b"=", b"\n", b"-1", b"1e999", b"{}", b"2026-11-21", b"nan", b"."]
        )
        content[at : at + length] = draw(st.one_of(st.binary(max_size=4), token))
    return draw(st.sampled_from([bytes(content), draw(st.binary(max_size=40))]))


def from_file(path: Path, content: bytes) -> Config:
    path.write_bytes(content)
    return load(path=path)


FUZZING = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(toml_files())
@FUZZING
def test_any_file_gives_a_config_or_a_config_error(tmp_path: Path, content: bytes) -> None:
    attempt(lambda: from_file(tmp_path / "any.toml", content))


@pytest.mark.slow
@given(st.data())
@hypothesis_settings(FUZZING, max_examples=12_000)
def test_anything_gives_a_config_or_a_config_error_at_length(tmp_path: Path, data: st.DataObject) -> None:
    """Files, trees, settings and JSON in turn."""
    kind = data.draw(st.sampled_from(["file", "tree", "settings", "json"]))
    if kind == "file":
        content = data.draw(toml_files())
        attempt(lambda: from_file(tmp_path / "any.toml", content))
    elif kind == "tree":
        tree = data.draw(st.dictionaries(NAMES, TREES, max_size=5))
        attempt(lambda: build(tree))
    elif kind == "settings":
        settings = tuple(data.draw(st.lists(SETTINGS, max_size=4)))
        attempt(lambda: load(data.draw(st.sampled_from([None, *list_presets()])), overrides=settings))
    else:
        text = data.draw(st.one_of(st.text(max_size=40), TREES.map(json.dumps)))
        attempt(lambda: Config.from_json(text))


def test_every_setting_names_a_known_key() -> None:
    assert set(KEYS) == set(subject._keys(Config))
