"""RSATrainer: TRL's DPOTrainer with a risk-aware loss. Wiring only."""

import copy
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any, TypeAlias

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, is_peft_model
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import (
    BitsAndBytesConfig,
    DataCollator,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
)
from transformers.trainer_utils import IntervalStrategy, TrainOutput
from transformers.utils import logging
from trl import DPOTrainer

from trl_rsa._trl import (
    DataCollatorForPreference,
    disable_gradient_checkpointing,
    get_config_model_id,
    maybe_gather_lm_head_ctx,
    use_adapter,
)
from trl_rsa.collator import PAIR_COLUMNS, DataCollatorForWeightedPreference, PairColumnsGuard
from trl_rsa.config import RSAConfig
from trl_rsa.kernels.head import (
    Reference,
    RiskHeadOutput,
    RiskHeadRequest,
    add_risk_head,
    check_vocabularies,
    output_head,
)
from trl_rsa.losses import rsa1_loss, rsa2_loss
from trl_rsa.metrics import PairStatistics, Sums, pair_metrics, pair_statistics, token_metrics
from trl_rsa.refusals import (
    NO_DATA_PARALLEL,
    NO_VISION,
    check_adapters,
    check_arguments,
    check_parallelism,
    check_risk_aware,
    refuse_pair_columns,
)
from trl_rsa.risk import Expectation, RiskMeasure


logger = logging.get_logger(__name__)

AnyDataset: TypeAlias = Dataset | IterableDataset

# A pair as tokens, prompt and completions apart; TRL makes these columns from text or messages.
TOKEN_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


class RSATrainer(DPOTrainer):
    """
    Trainer for Risk-aware Stepwise Alignment (RSA): one stage of it.

    A drop-in replacement for [`~trl.DPOTrainer`]: the same datasets, reference models, PEFT and engines, with a
    token-level nested risk measure in the loss. Three more dataset columns are understood: `pair_weight` (multiplies
    the pair's loss), `pair_label` (probability in [0, 1] that `chosen` is preferred; 1 if absent) and `sft_weight`
    (multiplies the likelihood of `chosen` where `loss_type` has `"sft"`; 1 if absent). A dataset with the columns
    `prompt_ids`, `chosen_ids` and `rejected_ids` (lists of token ids) is trained on as it is.

    Beside TRL's DPO metrics, of which `rewards/*` are without the risk term, it logs `risk/chosen`, `risk/rejected`
    and `risk/margins` (sequential drift risk Σ_t ρ(−log π/π_ref), in nats per answer), `risk/max_token` (the largest
    ρ of a single token) and `kl/chosen`, `kl/rejected` (sequential KL(π_ref‖π)). With `risk_alpha=0` the loss has no
    risk in it, and a step costs what DPO's does: `risk/*` are then those of evaluations, and of the one training step
    at which they are logged.

    With a `loss_type` of TRL's it is TRL's trainer, with all its options, data and metrics, and nothing of the above.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from trl_rsa import RSAConfig, RSATrainer

    >>> dataset = load_dataset("trl-lib/ultrafeedback_binarized", split="train")

    >>> trainer = RSATrainer(
    ...     model="Qwen/Qwen2.5-0.5B-Instruct",
    ...     args=RSAConfig(risk_measure="cvar", risk_tail=0.1),
    ...     train_dataset=dataset,
    ... )
    >>> trainer.train()
    ```

    Args:
        args ([`RSAConfig`], *optional*):
            Configuration for this trainer. If `None`, a default configuration is used.
        risk_measure ([`~trl_rsa.risk.RiskMeasure`], *optional*):
            A risk measure object, for measures that have no name; it takes precedence over `args.risk_*`.
        model, ref_model, data_collator, train_dataset, eval_dataset, processing_class, compute_metrics, callbacks, \
optimizers, quantization_config, peft_config:
            As in [`~trl.DPOTrainer`]. The reference is `ref_model`, else the policy with its adapter switched off (or
            a copy of the adapter it came with), else a copy of a model in memory, or the model at a path loaded again.
            TRL loads the path of a model in memory too, and so forgets what was merged into it or trained.
    """

    # The loss is a mean over pairs, not yet divided by the accumulation steps. (TRL says so itself from 1.15 on.)
    loss_is_scaled_for_ga = False

    _tag_names = ["trl", "dpo", "trl-rsa", "rsa"]  # noqa: RUF012 (TRL's attribute)
    _name = "RSA"
    _paper = {  # noqa: RUF012
        "title": "Constrained Language Model Policy Optimization via Risk-aware Stepwise Alignment",
        "id": "2512.24263",
        "citation": textwrap.dedent("""\
            @misc{song2025constrained,
                title         = {{Constrained Language Model Policy Optimization via Risk-aware Stepwise Alignment}},
                author        = {Huizhong Song and others},
                year          = 2025,
                eprint        = {2512.24263},
                archivePrefix = {arXiv},
            }"""),
    }

    def __init__(
        self,
        model: "str | PreTrainedModel | PeftModel",
        ref_model: PreTrainedModel | None = None,
        args: RSAConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: AnyDataset | None = None,
        eval_dataset: AnyDataset
        | DatasetDict
        | IterableDatasetDict
        | dict[str, Dataset | IterableDataset]
        | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
        risk_measure: RiskMeasure | None = None,
    ):
        if args is None:
            model_name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = RSAConfig(f"{model_name.split('/')[-1]}-RSA")
        check_arguments(args, risk_measure)
        if args.is_risk_aware:
            check_risk_aware(args, model, processing_class, train_dataset)
        else:  # what the model card says
            self._tag_names, self._name, self._paper = ["trl", "dpo", "trl-rsa"], DPOTrainer._name, DPOTrainer._paper
        if ref_model is None and peft_config is None and not args.precompute_ref_log_probs:
            ref_model = _copy_as_reference(model) if isinstance(model, PreTrainedModel) else None
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        # What `train` was given, for callbacks that have left something in the checkpoint.
        self.resumed_from: str | bool | None = None
        self.risk_measure: RiskMeasure = args.make_risk_measure() if risk_measure is None else risk_measure
        # The stage's temperature. TRL's attribute keeps its name, so that its callbacks and ours read the same.
        self.beta = args.beta / args.constraint_multiplier
        if args.is_risk_aware:
            self._make_risk_aware()

    def _make_risk_aware(self) -> None:
        if self._is_vlm:
            raise ValueError(NO_VISION)
        # TRL refuses it itself from 1.15 on.
        if self.args.n_gpu > 1:
            raise ValueError(NO_DATA_PARALLEL)
        # `accelerate launch` may bring a parallelism that the arguments do not know of.
        check_parallelism(self.accelerator.parallelism_config)
        collator: Any = self.data_collator
        if type(collator) is DataCollatorForPreference:
            options = {f.name: getattr(collator, f.name) for f in fields(collator)}
            collator = DataCollatorForWeightedPreference(**options)
        elif not isinstance(collator, DataCollatorForWeightedPreference):
            collator = PairColumnsGuard(collator)
        self.data_collator: Any = collator
        self._add_risk_heads()
        if self.accelerator.is_fsdp2:
            _keep_outputs(self.accelerator.state.fsdp_plugin)

    def _add_risk_heads(self) -> None:
        policy = self.model.get_base_model() if is_peft_model(self.model) else self.model
        check_adapters(policy)
        add_risk_head(policy, gather=maybe_gather_lm_head_ctx)
        if self.ref_model is not None:
            reference = self.accelerator.unwrap_model(self.ref_model)
            check_vocabularies(output_head(policy), output_head(reference))
            add_risk_head(reference, gather=maybe_gather_lm_head_ctx)
        else:
            output_head(policy)

    # Data

    def _prepare_dataset(
        self,
        dataset: AnyDataset,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin,
        args: RSAConfig,
        dataset_name: str,
    ) -> AnyDataset:
        if not args.is_risk_aware:
            refuse_pair_columns(dataset, args, dataset_name)
        given = len(dataset) if isinstance(dataset, Dataset) else None
        if set(TOKEN_COLUMNS) <= set(dataset.column_names or ()):
            # Pairs that come as tokens are trained on as they are: nothing is added, and no text is tokenized again.
            whole = dataset
        else:
            # TRL drops the pairs whose prompt alone fills `max_length`, without a word: they are counted here.
            whole = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        if not args.drop_truncated or args.max_length is None:
            return whole
        whole = whole.filter(_fits, fn_kwargs={"max_length": args.max_length})
        if given is None:
            _check_stream(whole, args.max_length, dataset_name)
        if given is not None and len(whole) < given:
            dropped = (
                f"{given - len(whole)} of {given} pairs of the {dataset_name} dataset, of which an "
                f"answer does not fit into max_length={args.max_length} tokens"
            )
            if not len(whole):
                raise ValueError(
                    f"You set max_length={args.max_length}, but that would drop {dropped}. Raise max_length, or set "
                    "drop_truncated=False to train on cut answers as DPO does."
                )
            logger.warning(f"Dropped {dropped}. Raise max_length to keep them.")
        return whole

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if not self.args.is_risk_aware:
            return
        self._signature_columns += [name for name in PAIR_COLUMNS if name not in self._signature_columns]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in [`~transformers.Trainer`]."""
        self.resumed_from = resume_from_checkpoint
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Loads the weights in the dtype in which they are trained: PEFT would turn the adapters of a quantised model,
        which TRL trains in bf16, into float32 at a resume.
        """
        policy: torch.nn.Module = self.model if model is None else model
        dtypes = {name: p.dtype for name, p in policy.named_parameters()}
        super()._load_from_checkpoint(resume_from_checkpoint, model=model)
        for name, p in policy.named_parameters():
            if p.is_floating_point() and p.dtype != dtypes.get(name, p.dtype):
                p.data = p.data.to(dtypes[name])

    # Loss

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        if not self.args.is_risk_aware:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        pair_columns = {name: inputs.pop(name, None) for name in PAIR_COLUMNS}
        completion_mask = inputs.pop("completion_mask")
        labels = inputs["input_ids"].masked_fill(completion_mask == 0, -100)
        reference = self._reference(model, inputs, labels)
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        measures_risk = self._measures_risk()
        measure = self.risk_measure if measures_risk else Expectation()
        outputs: Any = model(**inputs, labels=labels, risk_head=RiskHeadRequest(measure, reference))
        # Prompt-learning adapters put virtual tokens before the real ones: keep the real ones' positions.
        seq_len = completion_mask.shape[1] - 1
        # With `device_map`, the head may lie on another device than the batch.
        here = {k: v.to(completion_mask.device) for k, v in outputs.items()}
        outputs = RiskHeadOutput(**{k: v[:, -seq_len:] if v.dim() == 2 else v for k, v in here.items()})

        pairs = pair_statistics(outputs.log_probs, outputs.ref_log_probs, outputs.risk, outputs.kl)
        mask = completion_mask[:, 1:]
        loss = self._loss(pairs, outputs.log_probs, completion_mask, **pair_columns)
        counted = self._counted(len(mask) // 2, mask.device)
        sums = pair_metrics(PairStatistics(*(x[counted] for x in pairs)), self.beta) | token_metrics(
            outputs.entropy, outputs.mean_logits, outputs.is_top1, mask * counted.repeat(2).unsqueeze(1)
        )
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
            sums["aux_loss"] = outputs.aux_loss.detach(), torch.ones_like(outputs.aux_loss)
        maxima = {"risk/max_token": outputs.risk.detach().amax()}
        if not measures_risk:
            sums, maxima = {name: pair for name, pair in sums.items() if not name.startswith("risk/")}, {}
        self._record(sums, maxima, inputs["attention_mask"])
        if not return_outputs:
            return loss
        # Only for `compute_metrics`, which TRL has deprecated for this trainer: the logits need another forward.
        with torch.no_grad():
            return loss, model(**inputs, use_cache=False)

    def _measures_risk(self) -> bool:
        """With α = 0 the risk is a metric alone. It costs more than all else that the head does, so that training
        looks at it only where it is logged.
        """
        if self.args.risk_alpha != 0 or not self.model.training:
            return True
        step, strategy = self.state.global_step + 1, self.args.logging_strategy
        if strategy == IntervalStrategy.STEPS:
            return step % self.state.logging_steps == 0 or (step == 1 and self.args.logging_first_step)
        return strategy == IntervalStrategy.EPOCH and self.accelerator.gradient_state.end_of_dataloader

    def _reference(self, policy: PreTrainedModel, inputs: dict[str, Any], labels: Tensor) -> Reference:
        """The reference policy's hidden states at the completion tokens, and its head, without gradients."""
        adapter: AbstractContextManager[Any] = nullcontext()
        if self.ref_model is not None:
            model, unwrapped = self.ref_model, self.accelerator.unwrap_model(self.ref_model)
        else:
            model, peft_model = policy, self.accelerator.unwrap_model(self.model)
            unwrapped = peft_model.get_base_model()
            # A new adapter is switched off; for one that came with the model, TRL has made a frozen copy, "ref".
            adapter = use_adapter(peft_model, adapter_name="ref" if "ref" in peft_model.peft_config else None)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            adapter,
            _without_noise(unwrapped),
            # The reference was prepared before the head was added: its own autocast wrapper is not around our branch.
            self.accelerator.autocast(),
        ):
            # PEFT freezes an adapter that it switches off, but FSDP2 looks up in its first forward, which is this one,
            # what is trained and in which dtype.
            for parameter in trained:
                parameter.requires_grad_(True)
            hidden = model(**inputs, labels=labels, risk_head=RiskHeadRequest()).hidden
            return Reference(hidden, output_head(unwrapped))

    def _loss(
        self,
        pairs: PairStatistics,
        log_probs: Tensor,  # [2B, L - 1]
        completion_mask: Tensor,  # [2B, L]
        pair_weight: Tensor | None,  # [B]
        pair_label: Tensor | None,  # [B]
        sft_weight: Tensor | None = None,  # [B]
    ) -> Tensor:
        args: RSAConfig = self.args
        scores = pairs.chosen_logratios, pairs.rejected_logratios, pairs.chosen_risk, pairs.rejected_risk
        if args.link == "ipo":  # per token, as TRL has it
            chosen, rejected = completion_mask.sum(1).clamp(min=1).chunk(2)
            scores = tuple(score / n for score, n in zip(scores, (chosen, rejected) * 2, strict=True))
        options: dict[str, Any] = {
            "label_smoothing": args.label_smoothing,
            "link": args.link,
            "pair_label": pair_label,
        }
        weight = torch.ones_like(pairs.chosen_logratios) if pair_weight is None else pair_weight
        total = torch.zeros_like(weight).sum()
        for name, loss_weight in zip(self.loss_types, self.loss_weights, strict=True):
            if name == "rsa1":
                loss = (weight * rsa1_loss(*scores, self.beta, **options)).mean()
            elif name == "rsa2":
                assert args.risk_alpha is not None
                loss = (weight * rsa2_loss(*scores, self.beta, args.risk_alpha, **options)).mean()
            else:  # "sft", as TRL has it: the mean over the chosen answers' tokens
                chosen_log_probs, chosen_mask = log_probs.chunk(2)[0], completion_mask[:, 1:].chunk(2)[0]
                rows = weight if sft_weight is None else weight * sft_weight
                loss = -(rows.unsqueeze(1) * chosen_log_probs).sum() / chosen_mask.sum()
            total = total + loss_weight * loss
        return total

    # Metrics

    def _counted(self, pairs: int, device: torch.device) -> Tensor:  # [B], bool
        """Which pairs of this rank's batch are in the metrics. accelerate fills the last batches of an evaluation with
        pairs from its beginning.
        """
        state, places = self.accelerator.gradient_state, torch.arange(pairs, device=device)
        if self.model.training or not state.end_of_dataloader or state.remainder <= 0:
            return places >= 0
        return places + pairs * self.accelerator.process_index < state.remainder

    def _record(self, sums: Sums, maxima: dict[str, Tensor], attention_mask: Tensor) -> None:
        """Adds one step to what `log` averages: sums and counts over all ranks, then their ratio."""
        mode = "train" if self.model.training else "eval"
        sums = sums | {"num_tokens": (attention_mask.sum(), attention_mask.new_ones(()))}
        table = torch.stack([torch.stack([part.float() for part in pair]) for pair in sums.values()])  # [metrics, 2]
        # One collective and one wait for the device per step.
        everything = self.accelerator.gather(
            torch.cat([table.flatten(), *(value.float()[None] for value in maxima.values())])[None]
        )
        table = everything[:, : table.numel()].sum(0).view(-1, 2)
        totals = dict(zip(sums, table.tolist(), strict=True))
        tokens, _ = totals.pop("num_tokens")
        for name, (total, count) in totals.items():
            self._metrics[mode][name].append(total / count if count else 0.0)
        for name, value in zip(maxima, everything[:, table.numel() :].amax(0).tolist(), strict=True):
            self._metrics[mode][name] = [max([value, *self._metrics[mode][name]])]
        if mode == "train":
            self._total_train_tokens += int(tokens) // self._tp_size
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


def _copy_as_reference(model: PreTrainedModel) -> PreTrainedModel | None:
    """A copy of the policy as it is before training. None, for which TRL loads its path again, where ZeRO-3 has
    divided the weights: no process has them whole.
    """
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        logger.warning(
            "ZeRO-3 has divided the model's weights, so that the reference is loaded again from "
            f"{model.config.name_or_path}. If you have changed the weights since they were loaded, save the model and "
            "give its folder."
        )
        return None
    return copy.deepcopy(model)


@contextmanager
def _without_noise(reference: torch.nn.Module) -> Iterator[None]:
    """Dropout and NEFTune's noise are for what is trained: the reference is one law, whichever modules it shares."""
    training = [module for module in reference.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_stream(dataset: AnyDataset, max_length: int, name: str) -> None:
    """A stream has no length: what it drops cannot be counted beforehand, and that nothing is left can."""
    if next(iter(dataset), None) is None:
        raise ValueError(
            f"You set max_length={max_length}, but of every pair of the {name} dataset an answer does not fit into as "
            "many tokens, or it is empty. Raise max_length, or set drop_truncated=False to train on cut answers as "
            "DPO does."
        )
    logger.warning(
        f"Pairs of the streamed {name} dataset of which an answer does not fit into max_length={max_length} tokens "
        "are dropped, and not counted. `trl-rsa data` counts pairs of a file."
    )


def _fits(example: dict[str, Any], max_length: int) -> bool:
    prompt = len(example["prompt_ids"])
    return prompt + max(len(example["chosen_ids"]), len(example["rejected_ids"])) <= max_length


def _keep_outputs(plugin: FullyShardedDataParallelPlugin) -> None:
    """Keeps the model's outputs in float32: accelerate would let FSDP2 round them to the parameters' dtype.

    The outputs hold sums of log-ratios over a whole response. Rounded to bfloat16 they lose the differences that the
    loss is made of.
    """
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)
