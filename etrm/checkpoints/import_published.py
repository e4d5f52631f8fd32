"""Import a published checkpoint as a run folder. Settings that the weights do not determine must be given."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etrm.atomic_files import write_atomically
from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.format import WEIGHTS, Checkpoint
from etrm.checkpoints.inspect_tensors import use_our_names
from etrm.checkpoints.published_names import to_our_settings
from etrm.checkpoints.published_settings import find_settings, read_settings
from etrm.checkpoints.run_folder import describe_environment
from etrm.checkpoints.weights import read_weights
from etrm.config import KNOBS, SIDE, Config, EncoderKind, ModelConfig, build, check_request, override
from etrm.errors import CheckpointError, ConfigError
from etrm.model.recursive import RecursiveModel
from etrm.setting_texts import flatten

PUBLISHED_CODE: dict[str, Any] = {"qk_norm": False, "mlp_t_norm": "tokens", "encoder.qk_norm": False}
"""Settings that are constant in the published code, under our names."""
_EXPANSION = 4.0
"""The expansion of every published model. Any other value with the same inner width gives the same function."""


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        folder: the run folder that was written.
        config: the config of the run.
        tensors: the tensors by our names.
        sources: the origin of every setting that the model's function depends on.
    """

    folder: Path
    config: Config
    tensors: dict[str, Tensor]
    sources: dict[str, str]


def import_checkpoint(
    file: Path, folder: Path, settings: Path | None = None, overrides: tuple[str, ...] = ()
) -> Imported:
    """Write the weights of a published TRM or ETRM checkpoint as a run folder at step 0.

    Args:
        file: a file of ``torch.save`` or safetensors, with the published names (with or without wrapper prefixes) or
            ours.
        folder: the run folder to write. It must not exist.
        settings: a JSON or YAML file of the published settings; by default a file next to ``file``.
        overrides: settings of our config as ``section.key=value``; they take precedence over the settings file.

    Raises:
        CheckpointError: the file cannot be read, is not such a model, does not match its settings, or a setting
            is unknown; or the folder exists. Nothing is written in these cases.
        ConfigError: the settings do not make a valid config.
    """
    if file.is_dir():
        raise CheckpointError(
            "import.folder",
            f"{file} is a folder; a published checkpoint is a file",
            next_step="name the file in it",
        )
    if folder.exists():
        raise CheckpointError(
            "import.exists",
            f"{folder} exists",
            next_step="choose another --out; existing folders are never overwritten",
        )
    weights = read_weights(file, "raw")
    tensors = {name: _float32(name, tensor, file) for name, tensor in use_our_names(weights).items()}
    config, sources = _settings(tensors, file, settings or find_settings(file), overrides)
    _check(tensors, config.model, file)
    _write(folder, file, tensors, config, sources)
    return Imported(folder, config, tensors, sources)


def _float32(name: str, tensor: Tensor, file: Path) -> Tensor:
    """Return the tensor as float32, the type of our weights, or refuse values that float32 cannot hold."""
    exact = tensor.float()
    if not tensor.is_floating_point() or not torch.equal(exact.to(tensor.dtype), tensor.nan_to_num(nan=0.0)):
        finite = bool(tensor.isfinite().all())
        raise CheckpointError(
            "import.not-a-weight",
            f"{file}: {name} cannot be a weight",
            got=f"{tensor.dtype} that float32 cannot hold" if finite else "values that are NaN or infinite",
            allowed="finite numbers of float32, bfloat16 or float16",
            next_step="save the weights in one of these types",
        )
    return exact


def _settings(
    tensors: dict[str, Tensor], file: Path, settings_file: Path | None, overrides: tuple[str, ...]
) -> tuple[Config, dict[str, str]]:
    """Return the config, and the origin of each setting that the model's function depends on."""
    seen = _from_tensors(tensors, file)
    tree = override({"model": {}, "data": {"canvas": "published"}}, overrides)
    if not isinstance(tree["model"], dict):
        raise ConfigError(
            "config.not-a-value", "model is a section, not a value", next_step="--set model.num_heads=8"
        )
    by_hand = flatten(tree["model"])
    stored = read_settings(settings_file) if settings_file else {}
    by_file = to_our_settings(stored, seen["variant"], seen["encoder.kind"])
    is_trm = seen["variant"] == "trm"
    idle = {"encoder.qk_norm", "encoder.kind"} if is_trm else set()
    idle |= set() if seen["mlp_t"] else {"mlp_t_norm"}
    fixed, seen = ({n: v for n, v in values.items() if n not in idle} for values in (PUBLISHED_CODE, seen))
    chosen: dict[str, tuple[Any, str]] = {}
    layers = ((fixed, "published code"), (by_file, str(settings_file)), (by_hand, "given"), (seen, "tensors"))
    for values, source in layers:
        for name, value in values.items():
            if source == "tensors" and name in chosen and chosen[name][0] != value:
                raise CheckpointError(
                    "import.contradiction",
                    f"the tensors in {file} show that the model has {name} {value}",
                    got=f"{name} {chosen[name][0]} (from: {chosen[name][1]})",
                    allowed=f"{name} {value}",
                    next_step=f"leave this setting out, or use --set model.{name}={value}",
                )
            chosen[name] = value, source
    chosen.setdefault("expansion", (_expansion(tensors), "tensors"))
    if not is_trm:  # only the presence of a layer scale matters, not the value it started from
        scaled = any("gamma_1" in name for name in tensors)
        chosen.setdefault("encoder.layer_scale", (float(scaled), "tensors"))
    missing = [name for name in _needed(seen) if name not in chosen]
    if missing:
        raise CheckpointError(
            "import.absent-settings",
            f"the weights in {file} do not determine all settings of the model",
            got="unknown settings: " + ", ".join(missing),
            allowed="a file of the published settings (--settings), or each setting with --set",
            next_step=" ".join(f"--set model.{name}=..." for name in missing),
        )
    dotted = tuple(f"model.{name}={json.dumps(value)}" for name, (value, _) in chosen.items())
    config = check_request(build(override(tree, dotted)))
    return config, {name: source for name, (_, source) in sorted(chosen.items())}


def _from_tensors(tensors: dict[str, Tensor], file: Path) -> dict[str, Any]:
    """Return the settings that tensor names and shapes determine, as dotted names of the model section."""
    width = tensors.get("core.H_init")
    if width is None or width.ndim != 1:
        raise CheckpointError(
            "import.no-trm",
            f"{file} is not a TRM or ETRM checkpoint",
            got="no tensor inner.H_init; the first tensors are " + ", ".join(sorted(tensors)[:5]),
            allowed="the tensors of a published TRM or ETRM; prefixes _orig_mod., module. and model. are fine",
            next_step="etrm checkpoint inspect FILE lists the tensors of a file",
        )
    seen: dict[str, Any] = {
        "hidden_size": len(width),
        "layers": _count(tensors, "core.L_level.layers."),
        "mlp_t": any(".mlp_t." in name for name in tensors),
        "variant": "etrm" if any(name.startswith("encoder.") for name in tensors) else "trm",
        "encoder.kind": "standard",
    }
    if "core.embed_pos.embedding_weight" in tensors:
        seen["positions"] = "learned"
    return seen | (_encoder(tensors, len(width)) if seen["variant"] == "etrm" else {})


def _encoder(tensors: dict[str, Tensor], width: int) -> dict[str, Any]:
    kind = _kind(tensors)
    seen: dict[str, Any] = {
        "encoder.kind": kind,
        "encoder.layers": _count(tensors, "encoder.grid_encoder.layers."),
    }
    pooling = {"pool_weight_proj": "weighted", "pool_query": "attention"}
    if kind in KNOBS["pooling"]:
        found = [p for part, p in pooling.items() if any(part in name for name in tensors)]
        seen["encoder.pooling"] = found[0] if found else "mean"
    if kind in KNOBS["set_layers"]:
        seen["encoder.set_layers"] = _count(tensors, "encoder.set_encoder.layers.")
    if kind in KNOBS["latent_size"]:
        seen["encoder.latent_size"] = _rows(tensors["encoder.latent.mu_proj.weight"])
    spread = tensors.get("encoder.output_proj.weight")
    for name in ("encoder.set_encoder.query_tokens", "encoder.z_init", "encoder.z_H_init"):
        if name in tensors:
            seen["context_tokens"] = _rows(tensors[name])
    if spread is not None:
        seen["context_tokens"] = _rows(spread) // max(width, 1)
    return seen


def _kind(tensors: dict[str, Tensor]) -> EncoderKind:
    if "encoder.z_init" in tensors:
        return "recurrent"
    if "encoder.z_H_init" in tensors:
        return "trm_style"
    if "encoder.grid_encoder.cls_token" not in tensors:
        return "standard"
    has_set = "encoder.set_encoder.query_tokens" in tensors
    if "encoder.latent.mu_proj.weight" in tensors:
        return "hybrid_variational" if has_set else "lpn_variational"
    return "hybrid_standard" if has_set else "lpn_standard"


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def _count(tensors: dict[str, Tensor], start: str) -> int:
    """Return the number of numbered blocks under a name."""
    return len({match[1] for name in tensors if (match := re.match(re.escape(start) + r"(\d+)\.", name))})


def _expansion(tensors: dict[str, Tensor]) -> float:
    """Return an expansion that gives the inner widths of the core's first block, preferably the published one."""
    down = [tensors.get(f"core.L_level.layers.0.{part}.down_proj.weight") for part in ("mlp", "mlp_t")]
    sizes = [(t.shape[0], t.shape[1]) for t in down if t is not None and t.ndim == 2]
    fits = [_EXPANSION] + [inner * 1.5 / size for size, inner in sizes if size]

    def inner(size: int, expansion: float) -> int:
        return -(-round(expansion * size * 2 / 3) // 256) * 256

    return next((e for e in fits if all(inner(size, e) == wide for size, wide in sizes)), _EXPANSION)


def _needed(seen: dict[str, Any]) -> list[str]:
    """Return the settings that change what the model computes but cannot be read off the weights."""
    names = ["num_heads", "H_cycles", "L_cycles", "halt.max_steps", "context_tokens"]
    if not seen["mlp_t"]:
        names.append("positions")
    if seen["variant"] == "etrm" and not seen["encoder.kind"].startswith("lpn"):
        names.append("encoder.norm")
    return names


def _check(tensors: dict[str, Tensor], model: ModelConfig, file: Path) -> None:
    """Check that the tensors are exactly those of the model; only the puzzle table of a TRM may be missing."""
    table = tensors.get("puzzle_table.weights")
    with torch.device("meta"):
        wanted = RecursiveModel(model, puzzles=0 if table is None else _rows(table), side=SIDE).state_dict()
    if table is None:
        wanted.pop("puzzle_table.weights", None)
    problems = [f"{name}: missing" for name in wanted if name not in tensors]
    problems += [f"{name}: not part of this model" for name in tensors if name not in wanted]
    problems += [
        f"{name}: shape {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(
            "import.does-not-fit",
            f"{len(problems)} tensors of {file} do not match the model that the settings describe",
            got="; ".join(sorted(problems)[:12]),
            next_step="compare the settings with those that the checkpoint was trained with",
        )


def _write(
    folder: Path, file: Path, tensors: dict[str, Tensor], config: Config, sources: dict[str, str]
) -> None:
    with file.open("rb") as source:
        origin = {"file": file.name, "sha256": hashlib.file_digest(source, "sha256").hexdigest()}
    state = {
        "model_settings": config.model.model_dump(mode="json"),
        "weights": dict.fromkeys(WEIGHTS.values(), "unknown"),
        "imported": {**origin, "settings": sources},
        "metrics_bytes": 0,
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        write_atomically(temporary / "config.json", config.to_json())
        record = json.dumps(describe_environment() | {"imported": origin}, indent=1, sort_keys=True)
        write_atomically(temporary / "run.json", record + "\n")
        checkpoints.save(temporary / "checkpoints", Checkpoint(0, tensors, tensors, {}, state), keep=1)
        temporary.rename(folder)
    except OSError as error:
        raise CheckpointError(
            "import.not-writable",
            f"{folder} cannot be written",
            got=str(error),
            next_step="choose another --out",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
