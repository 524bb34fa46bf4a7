"""A configuration from a plan's arguments, with what would fail only when the training begins found at once."""

import warnings
from collections.abc import Mapping
from typing import Any

from trl_rsa._device import has_accelerator, warn_of_slow_bfloat16
from trl_rsa.config import RISK_OPTIONS, RSAConfig
from trl_rsa.risk import RiskMeasure
from trl_rsa.training.trackers import PACKAGES, is_installed


def make_config(title: str, arguments: Mapping[str, Any], config_class: type = RSAConfig) -> Any:
    """
    Args:
        title (`str`):
            Whose arguments they are, for messages.
        arguments (`Mapping[str, Any]`):
            Of the configuration.
        config_class (`type`, *optional*, defaults to [`RSAConfig`]):
            It, or a configuration of TRL's.

    Raises:
        ValueError: if they cannot be, or the learning rate's scheduler does not take its own.
    """
    # As RSAConfig does it by itself: transformers refuses to begin without.
    on_cpu = {} if config_class is RSAConfig or has_accelerator() else {"use_cpu": True}
    try:
        config = config_class(**{**arguments, **on_cpu})
    except (ValueError, ImportError):
        raise
    except Exception as error:  # what transformers stumbles over
        raise ValueError(
            f"You set args of {title} that {config_class.__name__} cannot take: {_first_line(error)}. Correct them."
        ) from error
    warn_of_slow_bfloat16(config)
    check_config(config, f" in the args of {title}")
    return config


def check_config(config: Any, where: str = "") -> None:
    """
    Args:
        config (`TrainingArguments`):
            Of a trainer.
        where (`str`, *optional*):
            Behind the name of an argument, in messages.

    Raises:
        ValueError: if a number cannot be, nothing would be trained, the optimizer cannot be had or does not take its
            arguments, or neither does the learning rate's scheduler, or a tracker is not installed.
    """
    _check_numbers(where, config)
    _check_optimizer(where, config)
    _check_scheduler(where, config)
    _check_trackers(where, config)


def risk_arguments(measure: str | RiskMeasure | None, args: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage or a rung adds to its arguments about the token-level risk.

    Where neither a measure nor any part of the risk is named there is none: α = 0, which is DPO. No measure of the
    literature kept more reward at the same tail (docs/method.md, "Where it pays").
    """
    if isinstance(measure, str):
        return {"risk_measure": measure}
    loss = args.get("loss_type", "rsa2")
    is_rsa2 = "rsa2" in ([loss] if isinstance(loss, str) else loss)
    is_named = measure is not None or any(name in args for name in RISK_OPTIONS)
    return {"risk_alpha": 0.0} if is_rsa2 and not is_named else {}


# The least value of each.
_LEAST = {
    "learning_rate": 0.0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 0.0,
    "weight_decay": 0.0,
    "adam_epsilon": 0.0,
    "logging_steps": 0.0,
    "save_steps": 0.0,
    "warmup_steps": 0.0,
    "dataloader_num_workers": 0,
    "max_length": 1,
}


def _check_numbers(where: str, config: Any) -> None:
    for name, least in _LEAST.items():
        value = getattr(config, name, None)
        if isinstance(value, int | float) and not value >= least:
            raise ValueError(
                f"You set {name}={value!r}{where}, but it is at least {least:g}. Set it so, or leave it out."
            )
    if config.max_steps <= 0 and not config.num_train_epochs > 0:
        raise ValueError(
            f"You set num_train_epochs={config.num_train_epochs!r}{where}, but then nothing is trained. Set it above "
            "0, or max_steps."
        )
    for name in ("adam_beta1", "adam_beta2"):
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ValueError(
                f"You set {name}={getattr(config, name)!r}{where}, but it is a rate of decay. Set it in [0, 1)."
            )


def _check_trackers(where: str, config: Any) -> None:
    from transformers.integrations import integration_utils as known

    for name in config.report_to:
        if name not in known.INTEGRATION_TO_CALLBACK:
            near = ", ".join(sorted(known.INTEGRATION_TO_CALLBACK))
            raise ValueError(
                f"You set report_to={name!r}{where}, but no tracker has that name. Set one of {near}, or none."
            )
        if not is_installed(name):
            raise ValueError(
                f"You set report_to={name!r}{where}, but it is not installed here. Install it with `pip install "
                f"{PACKAGES[name][0]}`, or set report_to to none."
            )


def _check_optimizer(where: str, config: Any) -> None:
    """Its arguments can be read, and what it needs is installed."""
    given = config.optim_args.replace(" ", "").split(",") if config.optim_args else []
    wrong = [each for each in given if each.count("=") != 1]
    if wrong:
        raise ValueError(
            f"You set optim_args={config.optim_args!r}{where}, but {wrong[0]!r} is no argument of an optimizer. Write "
            "them as name=value,name=value."
        )
    name = getattr(config.optim, "value", config.optim)
    if name.startswith("adamw_torch"):
        return
    from transformers import Trainer

    try:
        Trainer.get_optimizer_cls_and_kwargs(config)
    except ImportError as error:
        raise ValueError(
            f"You set optim={name!r}{where}, but it is not installed here: {_first_line(error)}. Install it, or set "
            "another optim."
        ) from error
    except Exception:  # some ask for the model, which there is none of yet
        return


def _check_scheduler(where: str, config: Any) -> None:
    """Makes the scheduler for an optimizer of one number."""
    import torch
    from transformers import get_scheduler

    if not config.lr_scheduler_kwargs and config.lr_scheduler_type in ("linear", "cosine", "constant"):
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate or 1e-5)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            get_scheduler(
                config.lr_scheduler_type,
                optimizer=optimizer,
                num_warmup_steps=0,
                num_training_steps=10,
                scheduler_specific_kwargs=dict(config.lr_scheduler_kwargs or {}),
            )
    except Exception as error:  # a keyword it does not know, a number it cannot take
        name = getattr(config.lr_scheduler_type, "value", config.lr_scheduler_type)
        raise ValueError(
            f"You set lr_scheduler_type={name!r} with lr_scheduler_kwargs={config.lr_scheduler_kwargs!r}{where}, "
            f"but this scheduler does not take them: {_first_line(error)}. Correct the arguments."
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
