"""Cases without code: a model of an installed library with random weights, `hf:bert`, `timm:resnet18`.

Nothing is downloaded. The model is built tiny where the library lets sizes be chosen, and learns a few batches of
random data by heart: the audit judges the code of the model, not a set of weights.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diagnostics.errors import UnknownName

SAMPLES = 8  # of a batch: small, so that an audit takes seconds
BATCHES = 4  # enough for losses and gradients to vary
CLASSES = 4  # likewise
TOKENS = 16
"""Length of a sequence."""
PIXELS = 64
"""Side of an image; a sixth of what most models were made for leaves one cell of the deepest features."""

_EVERY = 4  # of the tokens one is hidden from a masked language model
_MASK, _IGNORED = 2, -100  # a token that is not drawn, and the label that cross_entropy leaves out

_TINY: Mapping[str, int] = {
    "vocab_size": 96,
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "n_layer",
            "n_layers",
            "num_layers",
            "encoder_layers",
            "decoder_layers",
            "num_decoder_layers",
            "num_encoder_layers",
        ),
        2,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "num_key_value_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
        ),
        4,
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "n_inner",
            "ffn_dim",
            "d_ff",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "hidden_dim",
        ),
        64,
    ),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts"), 4),
    "image_size": 32,
    "patch_size": 8,
}
"""Sizes by the names that configurations of transformers give them."""

_HEADS = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
)
"""Tables of transformers from the name of a model to its class with a loss, in the order of choice."""

_SMALL: tuple[Mapping[str, Any], ...] = (
    {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": PIXELS},
    {"depths": (1, 1, 1, 1), "dims": (16, 32, 64, 128)},
    {"embed_dim": 24, "depths": (1, 1, 1, 1), "img_size": PIXELS},
    {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)},
    {"img_size": PIXELS},
    {},
)
"""Sizes that families of timm take, the smallest first; the last is the model as it is."""


def is_named_model(target: str) -> bool:
    """Whether a target names a model of a library."""
    library, colon, name = target.partition(":")
    return bool(colon and name) and library in LIBRARIES


def build_named_case(target: str) -> dict[str, Any]:
    """The arguments of an audit for a model of an installed library.

    Args:
        target: `hf:NAME`, `timm:NAME` or `torchvision:NAME`; a name of hf is a type of model, such as bert, or a class,
            such as BertForSequenceClassification.

    Raises:
        UnknownName: The library is not installed, or has no model of this name that can be built without code.
    """
    library, _, name = target.partition(":")
    torch.manual_seed(0)
    try:
        model, batches, step = LIBRARIES[library](name)
    except UnknownName:
        raise
    except Exception as error:
        raise _unbuildable(target, error) from error
    return {
        "model": model,
        "step": step,
        "batches": batches,
        "optimizer": torch.optim.AdamW(model.parameters(), 1e-3),
        "samples": lambda batch: SAMPLES,
    }


_Built = tuple[nn.Module, list[Any], Callable[[nn.Module, Any], Tensor]]


def _transformers(name: str) -> _Built:
    library = _import("transformers")
    auto = import_module("transformers.models.auto.modeling_auto")
    tables: list[Mapping[str, Any]] = [getattr(auto, table, {}) for table in _HEADS]
    kind = _find_class(name, tables)
    known = sorted({name for table in tables for name in table})
    if kind is None or kind not in dir(library):
        raise _unknown("hf", name, known)
    head = getattr(library, kind)
    config = _shrink(head.config_class)
    if config.is_encoder_decoder and kind not in tables[0].values():
        raise _unbuildable(f"hf:{name}", "its encoder takes an input for which there is no random batch")
    model = head(config)
    batches = [_inputs(f"hf:{name}", model) for _ in range(BATCHES)]
    return model.train(), batches, lambda model, batch: model(**batch).loss


def _find_class(name: str, tables: Iterable[Mapping[str, Any]]) -> str | None:
    """The class of transformers that a name means: of a type of model, the first that has a loss."""
    if "For" in name or "LMHead" in name:
        return name
    for table in tables:
        kind = dict(table).get(name) or dict(table).get(name.replace("-", "_"))
        if kind:
            return kind if isinstance(kind, str) else str(kind[0])
    return None


def _shrink(kind: Any) -> Any:
    """A configuration with tiny sizes, also of the configurations inside it."""
    config = kind()
    names = {*inspect.signature(kind.__init__).parameters, *vars(config)}
    inner = {
        name: _shrink(type(held)).to_dict() for name, held in vars(config).items() if hasattr(held, "to_dict")
    }
    chosen: dict[str, Any] = {
        name: size
        for name, size in _TINY.items()
        if name in names and isinstance(getattr(config, name, size), int)  # some have one per stage
    }
    if isinstance(getattr(config, "layer_types", None), list):
        chosen["layer_types"] = config.layer_types[:2]
    for token in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        if (getattr(config, token, None) or 0) >= _TINY["vocab_size"]:
            chosen[token] = 1
    tiny = kind(**chosen, **inner, num_labels=CLASSES)
    if tiny.is_encoder_decoder and getattr(tiny, "decoder_start_token_id", None) is None:
        tiny.decoder_start_token_id = 0
    return tiny


def _inputs(target: str, model: Any) -> dict[str, Tensor]:
    """A batch of random inputs with labels."""
    config, wanted = model.config, model.main_input_name
    classes = torch.arange(SAMPLES) % CLASSES
    if wanted == "input_ids":
        ids = torch.randint(3, config.vocab_size, (SAMPLES, TOKENS))
        by_token = not type(model).__name__.endswith("Classification") or "Token" in type(model).__name__
        labels = ids if by_token else classes
        if "MaskedLM" in type(model).__name__:  # the others are known to the model
            hidden = torch.arange(TOKENS) % _EVERY == torch.arange(SAMPLES)[:, None] % _EVERY
            ids, labels = ids.masked_fill(hidden, _MASK), ids.masked_fill(~hidden, _IGNORED)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    if wanted == "pixel_values":
        vision = getattr(config, "vision_config", config)
        side = getattr(vision, "image_size", PIXELS)
        side = side if isinstance(side, int) else PIXELS
        return {"pixel_values": _random_images(side, getattr(vision, "num_channels", 3)), "labels": classes}
    raise _unbuildable(target, f"it takes {wanted}, for which there is no random batch")


def _timm(name: str) -> _Built:
    library = _import("timm")
    if not library.is_model(name):
        raise _unknown("timm", name, library.list_models())
    failed: Exception | None = None
    for sizes in _SMALL:
        try:
            model = library.create_model(name, pretrained=False, num_classes=CLASSES, **sizes)
            model.train()(torch.randn(2, 3, PIXELS, PIXELS))
        except Exception as error:  # noqa: BLE001 - this family takes other sizes; the last try tells
            failed = error
        else:
            return model, _images(), _classify
    raise _unbuildable(f"timm:{name}", failed or "no sizes fit")


def _torchvision(name: str) -> _Built:
    models = _import("torchvision").models
    if name not in models.list_models(module=models):
        raise _unknown("torchvision", name, models.list_models(module=models))
    failed: Exception | None = None
    for sizes in ({"image_size": PIXELS}, {}):  # transformers of images fix the size of theirs
        try:
            model = models.get_model(name, weights=None, num_classes=CLASSES, **sizes)
            model.train()(torch.randn(2, 3, PIXELS, PIXELS))
        except Exception as error:  # noqa: BLE001 - the next try or the error tells
            failed = error
        else:
            return model, _images(), _classify
    raise _unbuildable(f"torchvision:{name}", failed or "no sizes fit")


def _images() -> list[Any]:
    classes = torch.arange(SAMPLES) % CLASSES
    return [(_random_images(PIXELS, 3), classes) for _ in range(BATCHES)]


def _random_images(side: int, channels: int) -> Tensor:
    """(B, C, side, side): coarse patterns, because deep features of white noise are the same for all samples."""
    coarse = torch.randn(SAMPLES, channels, 4, 4)
    return nn.functional.interpolate(coarse, (side, side), mode="nearest")


def _classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of a classifier, with that of its auxiliary heads."""
    output: Any = model(batch[0])
    losses = [cross_entropy(logits, batch[1]) for logits in _tensors(output)]
    return torch.stack(losses).sum()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    else:
        yield from (member for member in output if isinstance(member, Tensor))


LIBRARIES: Mapping[str, Callable[[str], _Built]] = {
    "hf": _transformers,
    "timm": _timm,
    "torchvision": _torchvision,
}
"""Prefix of a target -> the function that builds the model."""


_INSTALL = {
    "transformers": "pip install 'transformers>=4.46'",
    "timm": "pip install 'timm>=1.0'",
    "torchvision": "pip install 'torchvision>=0.21'",
}


def _import(package: str) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UnknownName(
            "models.not-installed",
            "the package {package} is not installed: {command}",
            package=package,
            command=_INSTALL[package],
        ) from error


def _unknown(library: str, name: str, known: Iterable[str]) -> UnknownName:
    names = list(known)
    close = difflib.get_close_matches(name, names, 4, 0.5)
    close += [
        each for each in names if name.startswith(each) and each not in close
    ]  # bert of bert-base-uncased
    return UnknownName(
        "models.unknown-model",
        "{library} has no model {got!r} that can be built without code; {kind}: {allowed}",
        library=library,
        got=name,
        kind="nearest" if close else "some are",
        allowed=", ".join(close or names[:8]),
    )


def _unbuildable(target: str, reason: BaseException | str) -> UnknownName:
    if isinstance(reason, BaseException):
        while reason.__cause__ is not None:  # libraries that import late wrap the cause
            reason = reason.__cause__
        reason = f"{type(reason).__name__}: {reason}"
    return UnknownName(
        "models.not-buildable",
        "{got} cannot be built with random weights: {reason}; write a function that returns the arguments of audit",
        got=target,
        reason=reason.strip().splitlines()[0],
    )
