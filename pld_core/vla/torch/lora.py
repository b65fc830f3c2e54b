"""Low-rank adapters (LoRA, Hu et al. 2021) over every linear layer, by peft."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from pld_core.errors import ConfigError


def add_adapters(model: nn.Module, rank: int, seed: int, spared: nn.Module | None) -> list[nn.Parameter]:
    """Put adapters into ``model`` in place; returns their factors, the only parameters that still want a gradient.

    The product of the factors is added as it is (alpha = rank) and starts at zero, in float32 whatever the
    model's precision. spared: a layer without adapter, as peft leaves out the output embeddings of a language model.
    """
    if rank < 1:
        raise ConfigError(f"sft with mode lora needs rank >= 1, got {rank}.")
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not spared]
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    factors = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
            factors.append(parameter)
    return factors


def merge_adapters(model: nn.Module) -> None:
    """Add every adapter to its layer's weights and take it out again, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    vars(model).pop("peft_config", None)  # or the next adapters would count as a second set
