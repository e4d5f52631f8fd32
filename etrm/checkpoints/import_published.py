"""A published checkpoint as a run folder of ours, with every setting that its weights do not carry given."""

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
"""What the published code always computes, under our names."""
_EXPANSION = 4.0
"""Of every published model; any other value with the same inner width is the same function."""


@dataclass(frozen=True)
class Imported:
    """What was written.

    Attributes:
        folder: the run folder.
        config: of the run.
        tensors: by our names.
        sources: of every setting that the model's function depends on, where it is known from.
    """

    folder: Path
    config: Config
    tensors: dict[str, Tensor]
    sources: dict[str, str]


def import_checkpoint(
    file: Path, folder: Path, settings: Path | None = None, overrides: tuple[str, ...] = ()
) -> Imported:
    """Write the weights of a published TRM or ETRM checkpoint as a run folder that stands at step 0.

    Args:
        file: of ``torch.save`` or safetensors, with the published names behind any wrappers, or ours.
        folder: to write; must not exist.
        settings: a JSON or YAML file of the published settings; looked for beside ``file`` by default.
        overrides: ``section.key=value`` of our config, which win over the settings file.

    Raises:
        CheckpointError: the file cannot be read, is no such model, does not hold what its settings say,
            or leaves a setting open that nobody gave; the folder exists. Nothing is written then.
        ConfigError: the settings make no config.
    """
    if file.is_dir():
        raise CheckpointError("import.folder", f"{file} is a folder, and what is imported is a file")
    if folder.exists():
        raise CheckpointError(
            "import.exists", f"{folder} exists", next_step="give another --out; nothing is overwritten"
        )
    weights = read_weights(file, "raw")
    tensors = {name: _float32(name, tensor, file) for name, tensor in use_our_names(weights).items()}
    config, sources = _settings(tensors, file, settings or find_settings(file), overrides)
    _check(tensors, config.model, file)
    _write(folder, file, tensors, config, sources)
    return Imported(folder, config, tensors, sources)


def _float32(name: str, tensor: Tensor, file: Path) -> Tensor:
    """The same numbers in the type of our weights."""
    exact = tensor.float()
    if not tensor.is_floating_point() or not torch.equal(exact.to(tensor.dtype), tensor.nan_to_num(nan=0.0)):
        finite = bool(tensor.isfinite().all())
        raise CheckpointError(
            "import.not-a-weight",
            f"{file}: {name} cannot be a weight",
            got=f"{tensor.dtype} that float32 cannot hold" if finite else "values that are NaN or infinite",
            allowed="finite numbers of float32, bfloat16 or float16",
        )
    return exact


def _settings(
    tensors: dict[str, Tensor], file: Path, beside: Path | None, overrides: tuple[str, ...]
) -> tuple[Config, dict[str, str]]:
    """The config, and where each setting of its function is known from."""
    seen = _from_tensors(tensors, file)
    tree = override({"model": {}, "data": {"canvas": "published"}}, overrides)
    if not isinstance(tree["model"], dict):
        raise ConfigError(
            "config.not-a-value", "model is a section, not a value", next_step="--set model.num_heads=8"
        )
    by_hand = flatten(tree["model"])
    stored = read_settings(beside) if beside else {}
    by_file = to_our_settings(stored, seen["variant"], seen["encoder.kind"])
    is_trm = seen["variant"] == "trm"
    idle = {"encoder.qk_norm", "encoder.kind"} if is_trm else set()
    idle |= set() if seen["mlp_t"] else {"mlp_t_norm"}
    fixed, seen = ({n: v for n, v in values.items() if n not in idle} for values in (PUBLISHED_CODE, seen))
    chosen: dict[str, tuple[Any, str]] = {}
    layers = ((fixed, "published code"), (by_file, str(beside)), (by_hand, "given"), (seen, "tensors"))
    for values, source in layers:
        for name, value in values.items():
            if source == "tensors" and name in chosen and chosen[name][0] != value:
                raise CheckpointError(
                    "import.contradiction",
                    f"{file} holds a model with {name} {value}",
                    got=f"{name} {chosen[name][0]} ({chosen[name][1]})",
                    next_step=f"leave it out, or give the settings of this model: --set model.{name}={value}",
                )
            chosen[name] = value, source
    chosen.setdefault("expansion", (_expansion(tensors), "tensors"))
    if not is_trm:  # whether there is a layer scale; what it started from changes nothing any more
        scaled = any("gamma_1" in name for name in tensors)
        chosen.setdefault("encoder.layer_scale", (float(scaled), "tensors"))
    missing = [name for name in _needed(seen) if name not in chosen]
    if missing:
        raise CheckpointError(
            "import.absent-settings",
            f"the weights in {file} do not say all that their model computes",
            got="not known: " + ", ".join(missing),
            allowed="a settings file of the published names (--settings), or each setting by name",
            next_step=" ".join(f"--set model.{name}=..." for name in missing),
        )
    dotted = tuple(f"model.{name}={json.dumps(value)}" for name, (value, _) in chosen.items())
    config = check_request(build(override(tree, dotted)))
    return config, {name: source for name, (_, source) in sorted(chosen.items())}


def _from_tensors(tensors: dict[str, Tensor], file: Path) -> dict[str, Any]:
    """The settings that names and shapes show, as dotted names of the model section."""
    width = tensors.get("core.H_init")
    if width is None or width.ndim != 1:
        raise CheckpointError(
            "import.no-trm",
            f"{file} holds no TRM",
            got="no vector inner.H_init among " + ", ".join(sorted(tensors)[:5]),
            allowed="the tensors of a published TRM or ETRM, behind any of _orig_mod., module., model.",
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
    """How many numbered blocks stand behind a name."""
    return len({match[1] for name in tensors if (match := re.match(re.escape(start) + r"(\d+)\.", name))})


def _expansion(tensors: dict[str, Tensor]) -> float:
    """An expansion that makes the inner widths of the core's first block, the published one if it does."""
    down = [tensors.get(f"core.L_level.layers.0.{part}.down_proj.weight") for part in ("mlp", "mlp_t")]
    sizes = [(t.shape[0], t.shape[1]) for t in down if t is not None and t.ndim == 2]
    fits = [_EXPANSION] + [inner * 1.5 / size for size, inner in sizes if size]

    def inner(size: int, expansion: float) -> int:
        return -(-round(expansion * size * 2 / 3) // 256) * 256

    return next((e for e in fits if all(inner(size, e) == wide for size, wide in sizes)), _EXPANSION)


def _needed(seen: dict[str, Any]) -> list[str]:
    """Settings that change the function and leave no trace in the weights."""
    names = ["num_heads", "H_cycles", "L_cycles", "halt.max_steps", "context_tokens"]
    if not seen["mlp_t"]:
        names.append("positions")
    if seen["variant"] == "etrm" and not seen["encoder.kind"].startswith("lpn"):
        names.append("encoder.norm")
    return names


def _check(tensors: dict[str, Tensor], model: ModelConfig, file: Path) -> None:
    """Every tensor of that model with its shape, and no other; a TRM may come without its puzzle table."""
    table = tensors.get("puzzle_table.weights")
    with torch.device("meta"):
        wanted = RecursiveModel(model, puzzles=0 if table is None else _rows(table), side=SIDE).state_dict()
    if table is None:
        wanted.pop("puzzle_table.weights", None)
    problems = [f"{name}: missing" for name in wanted if name not in tensors]
    problems += [f"{name}: not of this model" for name in tensors if name not in wanted]
    problems += [
        f"{name}: shape {tuple(tensors[name].shape)}, wanted {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(
            "import.does-not-fit",
            f"{len(problems)} tensors of {file} do not fit the model that they and the settings describe",
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
            next_step="give another --out",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
