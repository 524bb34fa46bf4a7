"""DPO and its family: TRL's DPOTrainer, with all its losses."""

from trl_rsa.training.methods.method import Method, find_in_trl, train_policy


_find = find_in_trl("dpo", "DPO")


DPO = Method(
    "dpo",
    "preference pairs, with a loss of TRL's (sigmoid, ipo, hinge, robust, …)",
    "pairs",
    _find,
    train_policy(_find),
    frozenset({"beta", "constraint_multiplier"}),
)
