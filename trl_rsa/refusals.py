"""What RSATrainer refuses: settings under which it would fail later, or compute something else without a word."""

from collections.abc import Iterable
from typing import Any

from accelerate import ParallelismConfig
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import TrainableTokensWrapper
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from trl_rsa.collator import PAIR_COLUMNS
from trl_rsa.config import RSAConfig
from trl_rsa.risk import RiskMeasure


NO_VISION = (
    "You gave a vision-language model or dataset, but RSATrainer's own losses have been tested with text only. Use a "
    "text model and dataset, or set loss_type to a loss of TRL's, such as 'sigmoid'."
)

NO_DATA_PARALLEL = (
    "You have several GPUs and one process, for which `Trainer` uses `nn.DataParallel`, but its copies of the model "
    "have no risk head. Start the script with `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one GPU."
)

# The values of `device_map` that split a model over devices.
_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")


def check_arguments(args: RSAConfig, risk_measure: RiskMeasure | None) -> None:
    """Refuses arguments of the wrong kind."""
    if not isinstance(args, RSAConfig):
        raise TypeError(
            f"You gave args of type {type(args).__name__}, but RSATrainer needs the options of RSAConfig. Replace "
            f"{type(args).__name__} by RSAConfig; it takes the same arguments."
        )
    if risk_measure is None:
        return
    # A class has the methods too, but it is called to make a measure.
    if isinstance(risk_measure, type) or not isinstance(risk_measure, RiskMeasure):
        raise TypeError(
            f"You gave risk_measure={risk_measure!r}, but it must be an object with the methods `__call__(x, log_p)` "
            "and `tilt(x, log_p)`. For a measure by name set `RSAConfig(risk_measure=...)`."
        )
    if not args.is_risk_aware:
        raise ValueError(
            f"You gave risk_measure={risk_measure!r}, but loss_type={args.loss_type} is TRL's and has no risk term. "
            "Remove risk_measure, or set loss_type='rsa2'."
        )


def check_risk_aware(
    args: RSAConfig,
    model: "str | PreTrainedModel | PeftModel",
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None,
    train_dataset: Any,
) -> None:
    """Refuses data and engines with which the risk-aware losses have not been tested."""
    columns = getattr(train_dataset, "column_names", None) or []
    if isinstance(processing_class, ProcessorMixin) or "image" in columns or "images" in columns:
        raise ValueError(NO_VISION)
    check_parallelism(args.parallelism_config)
    check_placement(args, model)


def refuse_pair_columns(dataset: Iterable[dict[str, Any]], args: RSAConfig, dataset_name: str) -> None:
    """TRL's losses would count every pair in full, without a word."""
    first = next(iter(dataset), {})
    for name in PAIR_COLUMNS:
        if name in first:
            raise ValueError(
                f"Your {dataset_name} dataset has a column {name!r}, but loss_type={args.loss_type} is TRL's and does "
                f"not know it. Remove the column, or set loss_type='rsa2', where risk_alpha=0 is DPO and `link` IPO, "
                "hinge or Robust DPO."
            )


def check_placement(args: RSAConfig, model: "str | PreTrainedModel | PeftModel") -> None:
    """Refuses a model spread over several devices in a job of several processes."""
    if args.world_size == 1:
        return
    if isinstance(model, str):
        placed = (args.model_init_kwargs or {}).get("device_map")
    else:
        placed = getattr(model, "hf_device_map", None)
    if placed in _SPREADING or (isinstance(placed, dict) and len(set(placed.values())) > 1):
        raise ValueError(
            f"You set device_map={placed!r}, but the job has {args.world_size} processes, and each of them would "
            "spread the model over all devices. Remove device_map; to split a model over devices use FSDP2 or ZeRO-3."
        )


def check_adapters(policy: PreTrainedModel) -> None:
    """Refuses an adapter on the LM head."""
    head = policy.get_output_embeddings()
    if isinstance(head, (BaseTunerLayer, TrainableTokensWrapper)):
        raise ValueError(
            f"You put an adapter on the LM head ({type(head).__name__}), but the risk is computed from the head's own "
            "weights, and the adapter would never be trained. Take the head out of `target_modules`; to train it, put "
            "it into `modules_to_save`."
        )


def check_parallelism(parallelism: ParallelismConfig | None) -> None:
    for name in ("cp", "sp", "tp"):
        size = getattr(parallelism, f"{name}_size", 1) or 1
        if size > 1:
            raise ValueError(
                f"You set parallelism_config.{name}_size={size}, but RSATrainer has not been tested with context, "
                "sequence or tensor parallelism. Use data parallelism, DeepSpeed ZeRO or FSDP."
            )
