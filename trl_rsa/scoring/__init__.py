"""Reward and cost models behind TRL's reward-function signature. See docs/scoring.md.

Importing it is light: torch and transformers are imported when a model is loaded.
"""

from trl_rsa.scoring.apply import Score, Scores, ScoringError, iter_scores, score
from trl_rsa.scoring.beaver import BeaverScorer
from trl_rsa.scoring.classifier import ClassifierScorer
from trl_rsa.scoring.endpoint import ChatEndpoint
from trl_rsa.scoring.functions import FunctionScorer
from trl_rsa.scoring.guard import GuardScorer, Verdict
from trl_rsa.scoring.guard_endpoint import GuardEndpointScorer
from trl_rsa.scoring.judge import Comparison, JudgeScorer, PairwiseJudge
from trl_rsa.scoring.labels import LabelledPairs, label_pairs
from trl_rsa.scoring.load import load_scorer
from trl_rsa.scoring.scorer import NotScored, Scorer, ScorerContractError


__all__ = [
    "BeaverScorer",
    "ChatEndpoint",
    "ClassifierScorer",
    "Comparison",
    "FunctionScorer",
    "GuardEndpointScorer",
    "GuardScorer",
    "JudgeScorer",
    "LabelledPairs",
    "NotScored",
    "PairwiseJudge",
    "Score",
    "Scorer",
    "ScorerContractError",
    "Scores",
    "ScoringError",
    "Verdict",
    "iter_scores",
    "label_pairs",
    "load_scorer",
    "score",
]
