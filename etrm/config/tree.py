"""The config as a tree of sections: checks across sections, and changes made by code."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple, TypedDict, Unpack, cast, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from etrm.config.code_names import Named, is_rules
from etrm.config.curriculum import scale_curriculum
from etrm.config.data import DataConfig
from etrm.config.evaluate import EvaluateConfig
from etrm.config.model import KINDS, SYMBOLIC, VARIATIONAL, ModelConfig, VariantName
from etrm.config.monitor import MonitorConfig
from etrm.config.section import Section, refused
from etrm.config.train import TrainConfig
from etrm.errors import ConfigError
from etrm.setting_texts import merge, override


class Config(Section):
    """All settings of a run."""

    preset: str = Field("", description="name of the preset that the other settings extend")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    monitor: MonitorConfig = MonitorConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    faults: tuple[Annotated[str, Named("faults")], ...] = Field(
        (), description="names of injected faults, see `etrm faults`, or code such as my_code.py:MY_FAULT"
    )
    interventions: tuple[str, ...] = Field(
        (), description="settings as section.key=value that apply after everything else, faults included"
    )

    @model_validator(mode="after")
    def _check(self) -> Config:
        train, variant = self.train, self.model.variant
        decoder_trains = train.lr > 0 and train.freeze_decoder_steps < train.steps
        encoder_rate = train.lr * train.encoder_lr_scale
        encoder_trains = variant != "trm" and encoder_rate > 0 and train.freeze_encoder_steps < train.steps
        table_trains = variant == "trm" and train.puzzle_lr > 0
        if not (decoder_trains or encoder_trains or table_trains):
            raise refused(
                "config.nothing-trains",
                "nothing would train: every part of the model is frozen or has learning rate 0 for the whole run "
                "(see train.lr, train.encoder_lr_scale, train.puzzle_lr, train.freeze_decoder_steps, "
                "train.freeze_encoder_steps)",
            )
        if variant == "trm" and train.freeze_encoder_steps:
            raise refused(
                "config.frozen-encoder-of-trm",
                "train.freeze_encoder_steps has no effect: model.variant trm has no encoder",
            )
        for name, section in (("data", self.data), ("evaluate", self.evaluate)):
            if is_rules(section.source) and section.augmentations != 1:
                raise refused(
                    "config.augmented-rules",
                    f"{name}.augmentations {section.augmentations!r} would turn rules of the rule family into other "
                    f"rules, also into held-out ones: {name}.augmentations must be 1",
                )
        if self.evaluate.demos is not None and not is_rules(self.evaluate.source):
            raise refused(
                "config.demos-of-listed-tasks",
                f"evaluate.demos {self.evaluate.demos} applies to the rule family only: the tasks of "
                f"{self.evaluate.source!r} have their own demonstrations",
            )
        if self.data.stream is not None and variant == "trm":
            raise refused(
                "config.stream-of-trm",
                "model.variant trm looks up a row for each task, and the tasks of data.stream have none",
            )
        if self.model.mlp_t and self.data.canvas != "published":
            raise refused(
                "config.mlp-without-whole-canvas",
                "model.mlp_t mixes a fixed number of tokens, so data.canvas must be 'published' "
                f"(got {self.data.canvas!r})",
            )
        kind = self.model.encoder.kind
        no_latent = kind in KINDS and kind not in VARIATIONAL  # an encoder from outside may have one
        if train.kl_weight > 0 and (variant == "trm" or no_latent):
            raise refused(
                "config.kl-without-latent",
                f"train.kl_weight {train.kl_weight} has no effect: only the encoder kinds "
                f"{' and '.join(VARIATIONAL)} have a KL divergence",
            )
        if train.entropy_weight > 0 and variant in get_args(VariantName) and variant != SYMBOLIC:
            raise refused(
                "config.entropy-without-templates",
                f"train.entropy_weight {train.entropy_weight} has no effect: only model.variant {SYMBOLIC!r} weighs "
                "templates",
            )
        if variant == SYMBOLIC:
            _check_training_of_symbolic(train)
        if variant == "trm" and self.data.augmentations == "fresh":
            raise refused(
                "config.fresh-augmentations-of-trm",
                "model.variant trm looks up a row for each task and augmentation, and fresh augmentations have none, "
                "so data.augmentations must be a number, not 'fresh'",
            )
        return self

    def to_json(self) -> str:
        """Return the config as JSON with sorted keys; equal configs give equal texts."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: the text is not JSON, or not a valid config.
        """
        try:
            return build(json.loads(text))
        except (
            ValueError,
            RecursionError,
        ) as error:  # ValueError also covers an integer of more than 4300 digits
            raise ConfigError(
                "config.not-json",
                "the resolved config is not valid JSON",
                got=str(error),
                next_step="etrm config --preset small prints a valid config",
            ) from error


def _check_training_of_symbolic(train: TrainConfig) -> None:
    """Refuse settings of training that cannot act on the symbolic solver."""
    wanted = {
        "loss": "softmax",
        "q_halt_weight": 0.0,
        "compile": False,
        "static_shapes": False,
        "cuda_graphs": False,
        "decoder": None,
        "inner_steps": 0,
    }
    reasons = {
        "loss": "its logits are log probabilities",
        "q_halt_weight": "its halting logit is constant",
        "compile": "it has no network that is compiled",
        "cuda_graphs": "it has no part that is captured",
        "static_shapes": "it has no encoder whose shapes are rounded",
        "decoder": "no checkpoint of a TRM has weights for it",
        "inner_steps": "its context is a distribution, which no gradient step may leave",
    }
    for name, value in wanted.items():
        got = getattr(train, name)
        if got != value and got != "auto":
            raise refused(
                "config.training-of-symbolic",
                f"model.variant 'symbolic' needs train.{name} = {value!r} (got {got!r}), because {reasons[name]}",
            )


def build(tree: dict[str, Any]) -> Config:
    """Build and check the config of a tree of settings.

    Raises:
        ConfigError: settings are invalid. All of them are named, with the nearest known name of an unknown one.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _refusal(_explained(error)) from error


def check_request(config: Config) -> Config:
    """Check settings that a user requests, and return the config unchanged.

    :class:`Config` refuses contradictions. This function also refuses settings that run but cannot do what they say.
    Faults and interventions change a config after this check, so that they may do exactly that.

    Raises:
        ConfigError: the warm-up is longer than the run, the batch cannot be split into its parts, the curriculum does
            not fit the run or its data, or the best checkpoint is requested of a run that has none.
    """
    train = config.train
    if train.warmup_steps > train.steps:
        raise ConfigError(
            "config.warmup-beyond-run",
            f"train.warmup_steps {train.warmup_steps} is longer than the run (train.steps {train.steps}): "
            "the learning rate would never reach train.lr",
            allowed="train.warmup_steps of at most train.steps",
            next_step=f"--set train.warmup_steps={train.steps // 10}",
        )
    if train.batch_size % train.accumulate:
        raise ConfigError(
            "config.indivisible-parts",
            f"train.batch_size {train.batch_size} cannot be split into {train.accumulate} equal parts "
            "(train.accumulate)",
            allowed="train.batch_size a multiple of train.accumulate",
            next_step=f"--set train.batch_size={train.accumulate * -(-train.batch_size // train.accumulate)}",
        )
    _check_curriculum(config.data, train.steps)
    if config.evaluate.checkpoint == "best" and config.evaluate.every is None:
        raise ConfigError(
            "config.best-without-evaluations",
            "the best checkpoint is that of the evaluations while a run trains, and evaluate.every is none",
            got="evaluate.checkpoint best",
            allowed="evaluate.checkpoint newest, or a number for evaluate.every",
            next_step=f"--set evaluate.every={max(1, train.steps // 10)}",
        )
    return config


def _check_curriculum(data: DataConfig, steps: int) -> None:
    """Refuse stages that the run would not reach, or that do not say what its last steps are."""
    total = sum(stage.steps for stage in data.curriculum)
    if data.curriculum and total != steps:
        scaled = [
            list(stage) for stage in scale_curriculum(data.curriculum, data.replay, steps)["curriculum"]
        ]
        raise ConfigError(
            "config.curriculum-steps",
            "the stages of data.curriculum must have as many steps as the run",
            got=f"{total} steps in {len(data.curriculum)} stages, train.steps {steps}",
            next_step=f"--set train.steps={total}, or --set 'data.curriculum={scaled}'",
        )
    if data.curriculum and data.curriculum[-1].max_side > data.max_side:
        raise ConfigError(
            "config.curriculum-beyond-data",
            "data.curriculum has a stage for larger grids than the data",
            got=f"side {data.curriculum[-1].max_side}, data.max_side {data.max_side}",
            next_step=f"--set data.max_side={data.curriculum[-1].max_side}",
        )


class Changes(TypedDict, total=False):
    """The arguments of :func:`with_settings`: for each section its changed settings by name, or a whole section."""

    preset: str
    data: Mapping[str, Any] | DataConfig
    model: Mapping[str, Any] | ModelConfig
    train: Mapping[str, Any] | TrainConfig
    monitor: Mapping[str, Any] | MonitorConfig
    evaluate: Mapping[str, Any] | EvaluateConfig
    faults: tuple[str, ...]
    interventions: tuple[str, ...]


def with_settings(config: Config, **changes: Unpack[Changes]) -> Config:
    """Return a config with some settings changed and checked: ``with_settings(config, train={"steps": 3}, faults=())``.

    Sections are merged, nested ones such as ``model={"halt": {"max_steps": 4}}`` too. ``preset=""`` removes the label.

    Raises:
        ConfigError: a setting or value is unknown, a combination is impossible, or another preset is named.
    """
    if changes.get("preset", "") not in ("", config.preset):
        raise ConfigError(
            "config.other-preset",
            "the preset of an existing config cannot be changed",
            got=repr(changes["preset"]),
            allowed="'' to remove the label",
            next_step="load(preset, overrides=...)",
        )
    return build(merge(config.model_dump(), changes))


def parse_settings(texts: Iterable[str]) -> Changes:
    """Settings given as ``section.key=value`` on a command line, as the values that :func:`with_settings` takes.

    Raises:
        ConfigError: a text is not of that form, or its value cannot be read.
    """
    return cast(Changes, override({}, tuple(texts)))


def with_interventions(config: Config) -> Config:
    """A config with its interventions applied, which it keeps as text.

    Raises:
        ConfigError: see :func:`with_overrides`.
    """
    return with_overrides(config, config.interventions) if config.interventions else config


def with_overrides(config: Config, overrides: tuple[str, ...]) -> Config:
    """Return a config with ``section.key=value`` overrides applied and checked.

    Raises:
        ConfigError: see :func:`etrm.setting_texts.override` and :func:`build`.
    """
    return build(override(config.model_dump(mode="json"), overrides))


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        found.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _keys(field.annotation, f"{prefix}{name}.")
    return found


def suggest_nearest(name: str, known: list[str]) -> str:
    """The most similar names, or "" if none is similar; of equally similar ones those of the nearest length."""
    close = difflib.get_close_matches(name, known, n=len(known), cutoff=0.4) if known else []
    nearness = {
        one: (difflib.SequenceMatcher(None, one, name).ratio(), -abs(len(one) - len(name))) for one in close
    }
    best = sorted(one for one in close if nearness[one] == max(nearness.values()))
    return f"; did you mean {' or '.join(map(repr, best))}?" if best else ""


class _Problem(NamedTuple):
    code: str
    line: str


def _refusal(problems: list[_Problem]) -> ConfigError:
    codes = [problem.code for problem in problems]
    about_one = {"config.unknown-setting", "config.invalid-value", "config.not-a-value"}
    next_step = (
        "etrm config, which prints every setting with its allowed values" if about_one & {*codes} else ""
    )
    if len(problems) == 1:
        return ConfigError(*problems[0], next_step=next_step)
    lines = "\n  ".join(problem.line for problem in problems)
    what = f"{len(problems)} settings cannot be used:\n  {lines}"
    return ConfigError("config.several-problems", what, next_step=next_step, codes=codes)


def _explained(error: ValidationError) -> list[_Problem]:
    """Return a code and one line of text for each invalid setting."""
    known = _keys(Config)
    problems: list[_Problem] = []
    wanted: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    for item in error.errors():
        dotted = ".".join(str(part) for part in item["loc"])
        message, code = item["msg"], item["type"]
        if code == "extra_forbidden":
            hint = suggest_nearest(dotted, known)
            problems.append(_Problem("config.unknown-setting", f"unknown setting {dotted!r}{hint}"))
        elif "problem" in item.get("ctx", {}):  # from the validator of a section
            problems.append(_Problem(code, message))
        elif not dotted:
            problems.append(_Problem("config.invalid-value", f"the whole config: {message}"))
        elif code == "model_type":
            given_here = item["input"]
            problems.append(
                _Problem("config.not-a-value", f"{dotted} is a section, not a value (got {given_here!r})")
            )
        else:
            # A setting of several types has one error per type, and pydantic adds the type to its name.
            name, _, kind = dotted.rpartition(".")
            is_type = dotted not in known and name in known and not kind.isdecimal()
            setting = name if is_type else dotted
            message = message.partition(", unable to parse")[0]
            wanted.setdefault(setting, []).append(message.replace("Input should be", "must be", 1))
            given[setting] = item["input"]
    return problems + [
        _Problem("config.invalid-value", f"{name}: {', or '.join(all_)} (got {given[name]!r})")
        for name, all_ in wanted.items()
    ]
