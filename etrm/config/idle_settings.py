"""Settings of a config that have no effect, because another setting leaves out what they are about."""

from __future__ import annotations

from etrm.config.train import TrainConfig
from etrm.config.tree import Config


def list_idle_settings(config: Config) -> dict[str, str]:
    """Return the settings of training that differ from their defaults and have no effect.

    They are no contradiction: runs that are compared often share all settings but one.

    Args:
        config: the settings of a run. A variant from outside may use each of them.

    Returns:
        The reasons by name of the setting, such as ``train.puzzle_lr``.
    """
    train, variant = config.train, config.model.variant
    reasons: dict[str, str] = {}
    if not config.model.own_variant and config.model.has_encoder:
        table = f"model.variant {variant} has no table of task ids"
        reasons |= {"puzzle_lr": table, "puzzle_weight_decay": table}
    if not config.model.has_encoder:
        reasons["encoder_lr_scale"] = f"model.variant {variant} has no encoder"
    if not train.inner_steps:
        reasons["inner_rate"] = "train.inner_steps is 0"
    if train.decoder is None:
        reasons |= dict.fromkeys(("decoder_weights", "allow_decoder_mismatch"), "train.decoder is none")
    defaults = TrainConfig.model_fields
    return {
        f"train.{name}": reason
        for name, reason in reasons.items()
        if getattr(train, name) != defaults[name].default
    }
