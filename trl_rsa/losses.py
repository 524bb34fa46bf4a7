"""The RSA losses: tensors and floats in, one loss per pair out. Lift them out as you like."""

import torch.nn.functional as F
from torch import Tensor


# How a margin, in nats, becomes a loss; see [`preference_loss`].
LINKS = ("sigmoid", "robust", "hinge", "ipo")


def preference_loss(
    margin: Tensor,  # [B]
    beta: float,
    label_smoothing: float | Tensor = 0.0,
    link: str = "sigmoid",
    pair_label: Tensor | None = None,  # [B]
) -> Tensor:  # [B]
    """The loss of a margin `m` between a chosen and a rejected answer: `p·L(m) + (1 − p)·L(−m)`.

    | link | L(m) | source |
    |---|---|---|
    | `"sigmoid"` | `−log σ(β·m)` | DPO (2305.18290) |
    | `"robust"` | the same, with flips that are taken back | Robust DPO (2403.00409) |
    | `"hinge"` | `max(0, 1 − β·m)` | SLiC (2305.10425) |
    | `"ipo"` | `(m − 1/(2β))²` | IPO (2310.12036, Eq. 17), β is its τ |

    `p` is the probability that the chosen answer is preferred: the pair's label, flipped with probability ε
    (`label_smoothing`), so `p = label·(1 − ε) + (1 − label)·ε`. The robust link goes the other way: the given label is
    what ε has left of the true one, and `p = (label − ε)/(1 − 2ε)` makes the loss unbiased. It may lie outside [0, 1].

    Args:
        margin (`Tensor` of shape `[B]`):
            In nats. For `"ipo"` in nats per token, if the loss is not to grow with the answers' lengths.
        beta (`float`):
            Temperature of the stage, in units of reward.
        label_smoothing (`float` or `Tensor` of shape `[B]`, *optional*, defaults to 0):
            Probability that the pair's label is flipped; below 0.5 for `"robust"`.
        link (`str`, *optional*, defaults to `"sigmoid"`):
            One of `LINKS`.
        pair_label (`Tensor` of shape `[B]`, *optional*):
            Probability that the chosen answer is preferred; 1 if absent.

    Returns:
        `Tensor` of shape `[B]`: the loss of each pair.
    """
    label: float | Tensor = 1.0 if pair_label is None else pair_label
    if link == "robust":
        label = (label - label_smoothing) / (1 - 2 * label_smoothing)
    else:
        label = label + label_smoothing - 2 * label_smoothing * label
    return label * _link(margin, beta, link) + (1 - label) * _link(-margin, beta, link)


def _link(margin: Tensor, beta: float, link: str) -> Tensor:
    if link == "hinge":
        return F.relu(1 - beta * margin)
    if link == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    if link in ("sigmoid", "robust"):
        return -F.logsigmoid(beta * margin)
    raise ValueError(f"You set link={link!r}, which does not exist. Set it to one of {', '.join(LINKS)}.")


def rsa1_loss(
    chosen_logratios: Tensor,  # [B]
    rejected_logratios: Tensor,  # [B]
    chosen_risk: Tensor,  # [B]
    rejected_risk: Tensor,  # [B]
    beta: float,
    label_smoothing: float | Tensor = 0.0,
    link: str = "sigmoid",
    pair_label: Tensor | None = None,  # [B]
) -> Tensor:  # [B]
    """RSA-1: the link of the margin `(chosen_logratios − rejected_logratios) + (chosen_risk − rejected_risk)`.

    With the sigmoid link the population minimiser is `π ∝ π_ref·exp(Q/beta)` with Q the nested risk-averse value of
    π_ref; with the expectation as measure that loss is TDPO1 (Zeng et al., 2024, arXiv 2404.11999).

    Args:
        chosen_logratios, rejected_logratios (`Tensor` of shape `[B]`):
            `Σ_t log π(y_t|s_t) − log π_ref(y_t|s_t)` over the completion's tokens, in nats. For `link="ipo"`, TRL's
            form: these and the risks divided by the number of the completion's tokens.
        chosen_risk, rejected_risk (`Tensor` of shape `[B]`):
            `Σ_t ρ(X_t)` over the same tokens (the sequential risk ratio), in nats.
        beta, label_smoothing, link, pair_label:
            As in [`preference_loss`].

    Returns:
        `Tensor` of shape `[B]`: the loss of each pair.
    """
    margin = (chosen_logratios - rejected_logratios) + (chosen_risk - rejected_risk)
    return preference_loss(margin, beta, label_smoothing, link, pair_label)


def rsa2_loss(
    chosen_logratios: Tensor,  # [B]
    rejected_logratios: Tensor,  # [B]
    chosen_risk: Tensor,  # [B]
    rejected_risk: Tensor,  # [B]
    beta: float,
    alpha: float,
    label_smoothing: float | Tensor = 0.0,
    link: str = "sigmoid",
    pair_label: Tensor | None = None,  # [B]
) -> Tensor:  # [B]
    """RSA-2: the link of the margin `chosen_logratios − rejected_logratios − alpha·(rejected_risk − sg(chosen_risk))`.

    `sg` stops the gradient. With the sigmoid link it is the form that the RSA paper is reported to print (Eq. 15), and
    with the expectation as measure TDPO2 (Zeng et al., 2024, arXiv 2404.11999). `alpha=0` is the loss of the link's
    name: DPO, Robust DPO, hinge or IPO.

    Args:
        chosen_logratios, rejected_logratios, chosen_risk, rejected_risk, beta, label_smoothing, link, pair_label:
            As in [`rsa1_loss`].
        alpha (`float`):
            Weight of the risk term, at least 0.

    Returns:
        `Tensor` of shape `[B]`: the loss of each pair.
    """
    margin = chosen_logratios - rejected_logratios
    if alpha:  # 0·∞ = 0
        margin = margin - alpha * (rejected_risk - chosen_risk.detach())
    return preference_loss(margin, beta, label_smoothing, link, pair_label)
