"""The sandbox: an embedded language world with known reward and cost. See docs/sandbox.md.

Importing it is light: torch, transformers, datasets and TRL are imported by the functions that need them.
"""

from trl_rsa.sandbox.build import Sandbox, SandboxSettings, build_sandbox
from trl_rsa.sandbox.exact import PrefixTree, ResponseLaw, tail_mean
from trl_rsa.sandbox.policy import PolicySettings, train_policy
from trl_rsa.sandbox.preferences import (
    grammar_sampler,
    helpful_score,
    model_sampler,
    preference_pairs,
    safety_score,
    sample_preferences,
)
from trl_rsa.sandbox.prompts import CATEGORIES, KINDS, Prompt, all_prompts, find_prompt, prompt_kinds, split_prompts
from trl_rsa.sandbox.sampling import sample_responses
from trl_rsa.sandbox.scorers import ScorerSettings, scorer_function, train_cost_model, train_reward_model
from trl_rsa.sandbox.tokenizer import build_tokenizer
from trl_rsa.sandbox.worlds import WORLDS, World, get_world


__all__ = [
    "CATEGORIES",
    "KINDS",
    "WORLDS",
    "PolicySettings",
    "PrefixTree",
    "Prompt",
    "ResponseLaw",
    "Sandbox",
    "SandboxSettings",
    "ScorerSettings",
    "World",
    "all_prompts",
    "build_sandbox",
    "build_tokenizer",
    "find_prompt",
    "get_world",
    "grammar_sampler",
    "helpful_score",
    "model_sampler",
    "preference_pairs",
    "prompt_kinds",
    "safety_score",
    "sample_preferences",
    "sample_responses",
    "scorer_function",
    "split_prompts",
    "tail_mean",
    "train_cost_model",
    "train_policy",
    "train_reward_model",
]
