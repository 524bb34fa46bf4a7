"""`safe_rlhf.datasets`: datasets by name, a base class for one's own, and the tokenized datasets of its trainers."""

from trl_rsa.compat.safe_rlhf.datasets.base import RawDataset, RawSample, parse_dataset
from trl_rsa.compat.safe_rlhf.datasets.tokenized import (
    PreferenceDataset,
    PromptOnlyDataset,
    SafetyPreferenceDataset,
    SupervisedDataset,
    TokenizedDataset,
)


__all__ = [
    "PreferenceDataset",
    "PromptOnlyDataset",
    "RawDataset",
    "RawSample",
    "SafetyPreferenceDataset",
    "SupervisedDataset",
    "TokenizedDataset",
    "parse_dataset",
]
