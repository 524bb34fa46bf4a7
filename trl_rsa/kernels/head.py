"""Gives a Hugging Face causal language model the risk head: per-token statistics computed inside its forward.

Inside, because DDP, ZeRO-3 and FSDP2 hang their hooks on the wrapped model's forward: head mathematics outside it
fails under full fine-tuning ("mark a variable ready only once", or a head of size 0).
"""

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.tensor import DTensor, Partial
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, logging

from trl_rsa.kernels.chunked import Gather, _no_gather, chunked_token_statistics
from trl_rsa.kernels.statistics import Head, TokenStatistics
from trl_rsa.kernels.tiled import is_supported, tiled_token_statistics
from trl_rsa.risk import RiskMeasure


logger = logging.get_logger(__name__)


@dataclass
class Reference:
    """The reference policy at the batch's completion tokens. A plain dataclass: see [`Head`]."""

    hidden: Tensor  # [N, H_ref]
    head: Head


@dataclass
class RiskHeadRequest:
    """What `model(..., risk_head=request)` should compute. Without a reference: only the hidden states."""

    measure: RiskMeasure | None = None
    reference: Reference | None = None


@dataclass
class RiskHeadOutput(ModelOutput):
    """Output of a forward with `risk_head=`. Per-token fields are `[B, L - 1]`, zero where there is no label."""

    hidden: Tensor | None = None  # [N, H] at the N labelled positions, in row-major order; only without a reference
    log_probs: Tensor | None = None
    ref_log_probs: Tensor | None = None
    risk: Tensor | None = None
    kl: Tensor | None = None
    entropy: Tensor | None = None
    mean_logits: Tensor | None = None
    is_top1: Tensor | None = None
    aux_loss: Tensor | None = None  # scalar, Mixture-of-Experts models only


def output_head(model: PreTrainedModel) -> Head:
    """The LM head of `model` as it is now: with PEFT, of the adapter that is active."""
    module, config = model.get_output_embeddings(), model.config.get_text_config()
    if module is None or not hasattr(module, "weight"):
        raise ValueError(
            f"You gave a {type(model).__name__}, but it has no linear LM head, over whose vocabulary the risk is "
            "taken. Use a causal language model."
        )
    # Less than two bytes per number, or 4-bit numbers packed into wider ones (bitsandbytes' `quant_storage`).
    if module.weight.element_size() < 2 or hasattr(module.weight, "quant_state"):
        raise ValueError(
            f"You gave a {type(model).__name__} whose LM head is quantised ({type(module).__name__}), but the risk is "
            "taken over the whole vocabulary, down to its rarest words. Keep the head in its own precision: add "
            "'lm_head' to `llm_int8_skip_modules` of the quantization_config, or leave that unset."
        )
    return Head(
        module.weight,
        getattr(module, "bias", None),
        _logit_scale(config),
        getattr(config, "final_logit_softcapping", None),
    )


def _logit_scale(config: object) -> float:
    """The factor on the logits, under the names that model families give it (Cohere, Muse, Falcon-H1, Granite, …)."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    # HyperCLOVA X multiplies by what Granite and MiniCPM3 divide by.
    return float(divisor) if getattr(config, "model_type", None) == "hyperclovax" else 1.0 / divisor


def add_risk_head(model: PreTrainedModel, gather: Gather = _no_gather) -> None:
    """Teaches `model`'s forward one more keyword, `risk_head` ([`RiskHeadRequest`]); without it nothing changes.

    Add it to the base model, not to a PEFT wrapper, and before an engine wraps the policy.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Causal language model, changed in place.
        gather (`Callable`, *optional*):
            Context manager that makes sharded head parameters whole (ZeRO-3).
    """
    original_forward = model.forward

    # `generate` checks its arguments against the signature, so the original one is kept.
    @functools.wraps(type(model).forward)
    def forward(self, *args, risk_head: RiskHeadRequest | None = None, **kwargs):
        if risk_head is None:
            return original_forward(*args, **kwargs)
        return _risk_forward(self, risk_head, gather, *args, **kwargs)

    model.forward = types.MethodType(forward, model)


def _risk_forward(
    model: PreTrainedModel, request: RiskHeadRequest, gather: Gather, *args, labels: Tensor, **kwargs
) -> RiskHeadOutput:
    kwargs["use_cache"] = False
    backbone = model.base_model(*args, **kwargs)
    head = output_head(model)
    labels = labels[:, 1:].to(head.weight.device)
    mask = labels != -100
    # With `device_map`, the backbone may end on another device than the head.
    hidden = backbone.last_hidden_state[:, :-1].to(head.weight.device)[mask]
    if request.reference is None:
        return RiskHeadOutput(hidden=hidden)
    assert request.measure is not None
    head, ref_head = _whole_heads(head, request.reference.head)
    with gather(head.weight, head.bias, ref_head.weight, ref_head.bias):
        check_vocabularies(head, ref_head)
        _check_whole(head, ref_head)
        ref_hidden = request.reference.hidden.to(hidden.device)
        kernel = _kernel(request.measure)
        statistics = kernel(hidden, head, ref_hidden, ref_head, labels[mask], request.measure, gather=gather)
    return RiskHeadOutput(**_scatter(statistics, mask), aux_loss=_aux_loss(model, backbone, kwargs))


def _kernel(measure: RiskMeasure) -> Callable[..., TokenStatistics]:
    """The fused kernel where it knows the measure's tilted law, else dense chunks, which autograd differentiates."""
    if is_supported(measure):
        return tiled_token_statistics
    logger.warning_once(
        f"The risk measure {measure!r} is not one of trl_rsa.risk, whose tilted laws the fused kernel knows: its "
        "gradient is left to autograd, in dense chunks of tokens. The results are the same, the steps are slower."
    )
    return chunked_token_statistics


def _whole_heads(head: Head, ref_head: Head) -> tuple[Head, Head]:
    """FSDP2 keeps parameters as DTensors: gather them once, before the tokens are cut into tiles.

    Usually the policy's head is whole already, for it lies in the last of the units that FSDP2 gathers for the
    forward. Not so a copy that PEFT trains (`modules_to_save`): it is a unit by itself, whose forward never runs.
    """
    whole = Head(_whole(head.weight), _whole(head.bias), head.scale, head.softcap)
    if ref_head.weight is head.weight:
        return whole, whole
    return whole, Head(_whole(ref_head.weight), _whole(ref_head.bias), ref_head.scale, ref_head.softcap)


def _whole(parameter: Tensor | None) -> Tensor | None:
    """The whole of a parameter; if it is trained, its gradient is the mean over the ranks, as FSDP2's is."""
    if not isinstance(parameter, DTensor):
        return parameter
    mesh = parameter.device_mesh
    # Without grad_placements every rank would take its shard from its own batch's gradient, without a word.
    whole = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda grad: grad / mesh.size())
    return whole


def check_vocabularies(head: Head, ref_head: Head) -> None:
    """Refuses a policy and a reference with vocabularies of different size. The heads may be sharded."""
    # ZeRO-3 leaves nothing in a sharded parameter but its whole shape.
    size, ref_size = (getattr(h.weight, "ds_shape", h.weight.shape)[0] for h in (head, ref_head))
    if size != ref_size:
        raise ValueError(
            f"You gave a policy with {size} tokens and a reference with {ref_size}, but the risk compares them token "
            "by token. Use a reference with the policy's vocabulary."
        )


def _check_whole(head: Head, ref_head: Head) -> None:
    """An empty head would give a loss of 0 and gradients that are not finite, without an error."""
    if not (head.weight.numel() and ref_head.weight.numel()):
        raise RuntimeError(
            "You train with an engine that shards the LM head, but it was not gathered for the forward. Give "
            "`add_risk_head` a `gather` that makes it whole."
        )


def _scatter(statistics: TokenStatistics, mask: Tensor) -> dict[str, Tensor]:
    """`[N]` → `[B, L - 1]`. `masked_scatter` keeps an empty batch connected to the model, so that backward works."""
    return {name: x.new_zeros(mask.shape).masked_scatter(mask, x) for name, x in statistics._asdict().items()}


def _aux_loss(model: PreTrainedModel, backbone: ModelOutput, kwargs: dict) -> Tensor | None:
    """The load-balancing loss of a Mixture-of-Experts model whose router logits were asked for."""
    if not kwargs.get("output_router_logits"):
        return None
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = model.config.get_text_config()
    return load_balancing_loss_func(
        backbone.router_logits, config.num_experts, config.num_experts_per_tok, kwargs.get("attention_mask")
    )
