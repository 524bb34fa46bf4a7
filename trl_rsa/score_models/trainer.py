"""TRL's RewardTrainer on rows with one or two responses, of which a label, a grade or an order is known."""

from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl import RewardTrainer

from trl_rsa.score_models.encoding import NONE, Collator
from trl_rsa.score_models.losses import grade_loss, graded_label_loss, pair_loss, sign_loss
from trl_rsa.score_models.normalizer import ScoreNormalizer
from trl_rsa.scoring.graded import Readout


class ScoreModelTrainer(RewardTrainer):
    """
    [`~trl.RewardTrainer`] with the losses of a score model.

    The loss of a batch is the sum over its responses and pairs, divided by its rows:

    * a pair: −log σ of the difference of the scores (of a graded model: of the expected costs);
    * a labelled response, for a cost: −log σ(±score), or −log P(safe or unsafe) of a graded model;
    * a graded response: −log P(grade);
    * `regularization` times the mean of the squared logits.

    Of several heads each is trained for itself, and the loss is their mean.

    Args:
        readout ([`Readout`]):
            What the logits are.
        token_wise (`bool`):
            Whether a pair and a label are judged at every token from where the responses part (or the one response
            begins) to the end, in the mean, instead of at the end. The longer response meets the final score of the
            shorter one.
        regularization (`float`):
            Weight of the squared logits.
        last_token (`bool`):
            Whether the score is read at the last attended token, as Safe RLHF does; without it where transformers'
            classifiers read it: at the last token that is not padding. They differ where the padding is the
            end-of-sequence token.
        normalizer ([`ScoreNormalizer`], *optional*):
            Divides the scores by their spread in training.
        kwargs:
            As [`~trl.RewardTrainer`]. The datasets are those of [`~score_models.encoding.encode`].
    """

    def __init__(
        self,
        *args: Any,
        readout: Readout,
        token_wise: bool = False,
        regularization: float = 0.0,
        last_token: bool = False,
        normalizer: ScoreNormalizer | None = None,
        **kwargs: Any,
    ):
        self.readout, self.token_wise, self.regularization = readout, token_wise, regularization
        self.last_token, self.normalizer = last_token, normalizer
        super().__init__(*args, **kwargs)
        self.data_collator = Collator(self.processing_class.pad_token_id, self.args.pad_to_multiple_of)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        tokens, ends, outputs = self._logits(model, inputs["input_ids"], inputs["attention_mask"])
        if self.normalizer is not None:
            if model.training:
                self.normalizer.update(_of_all_processes(ends))
            tokens, ends = self.normalizer(tokens), self.normalizer(ends)
        weights, rows = inputs["head_weights"], inputs["rows"]  # [N, heads], a number
        losses = {
            "pairs": self._pairs(tokens, ends, inputs),
            "labels": self._labels(tokens, ends, inputs),
            "grades": self._grades(ends, inputs),
        }
        total = ends.sum() * 0.0  # every process has a gradient, whatever is in its batch
        for name, (values, indices) in losses.items():
            if len(indices):
                part = (values * weights[indices]).sum() / (rows * self.readout.heads)
                total = total + part
                self._log(f"loss/{name}", part)
        if self.regularization:
            squares = (
                ends.square() if not self.token_wise else _mean_over(tokens.square(), _window(inputs, tokens.shape[1]))
            )
            total = total + self.regularization * squares.mean()
        self._log_scores(ends, inputs)
        return (total, outputs) if return_outputs else total

    def _logits(self, model: Any, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Any]:
        """The logits at every token [N, T, C] (empty unless needed), those of the response [N, C], the outputs."""
        needed = self.token_wise or self.last_token
        if not needed:
            outputs = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            logits = outputs.logits.float()
            return logits[:, :0], logits, outputs
        seen: list[Tensor] = []
        # The classifier applies its head to every token and then picks one, inside the wrappers of DDP or ZeRO.
        hook = _head(model).register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            outputs = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        finally:
            hook.remove()
        tokens = seen[0].float()
        if not self.last_token:
            return tokens, outputs.logits.float(), outputs
        last = attention_mask.sum(-1) - 1
        return tokens, tokens[torch.arange(len(last), device=last.device), last], outputs

    def _pairs(self, tokens: Tensor, ends: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Loss of each pair and head, and the response whose weight it has."""
        preferred, other = inputs["pairs"].unbind(-1)  # [P]
        worse = self.readout.objective == "cost"
        if not self.token_wise:
            values = self.readout.per_head(ends)  # [N, heads]
            return pair_loss(values[preferred], values[other], worse), preferred
        values = self.readout.per_head(tokens)  # [N, T, heads]
        lengths = inputs["attention_mask"].sum(-1)  # [N]
        until = torch.maximum(lengths[preferred], lengths[other])
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        window = (steps >= inputs["starts"][preferred, None]) & (steps < until[:, None])  # [P, T]
        first, second = (_held(values, index, lengths, steps) for index in (preferred, other))
        return _mean_over(pair_loss(first, second, worse), window), preferred

    def _labels(self, tokens: Tensor, ends: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        labelled = (inputs["unsafe"] != NONE).nonzero().squeeze(-1)  # [L]
        if self.readout.objective == "reward":
            labelled = labelled[:0]
        unsafe = inputs["unsafe"][labelled].bool()[:, None]  # [L, 1]
        if self.readout.scale is not None:
            logits = ends[labelled].unflatten(-1, (self.readout.heads, self.readout.logits_per_head))
            return graded_label_loss(logits, unsafe, self.readout.scale.first_unsafe), labelled
        if not self.token_wise:
            return sign_loss(ends[labelled], unsafe), labelled
        window = _window(inputs, tokens.shape[1])[labelled]
        return _mean_over(sign_loss(tokens[labelled], unsafe[:, None]), window), labelled

    def _grades(self, ends: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        graded = (inputs["grades"] != NONE).nonzero().squeeze(-1)  # [G]
        if self.readout.scale is None:
            return ends[:0], graded[:0]
        logits = ends[graded].unflatten(-1, (self.readout.heads, self.readout.logits_per_head))
        return grade_loss(logits, inputs["grades"][graded][:, None]), graded

    @torch.no_grad()
    def _log_scores(self, ends: Tensor, inputs: dict[str, Any]) -> None:
        """The names that TRL's RewardTrainer logs, in its sense: of the pairs."""
        scores = self.readout.scores(ends)  # [N]
        self._log("mean_reward" if self.readout.objective == "reward" else "mean_cost", scores.mean())
        preferred, other = inputs["pairs"].unbind(-1)
        if len(preferred):
            margins = scores[preferred] - scores[other]
            margins = -margins if self.readout.objective == "cost" else margins
            self._log("accuracy", (margins > 0).float().mean())
            self._log("margin", margins.mean())

    def _log(self, name: str, value: Tensor) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(float(value.detach()))


def _of_all_processes(values: Tensor) -> Tensor:  # [...] -> [N]
    """Gathered as objects: rows have one response or two, so that the processes have different numbers of them."""
    return torch.tensor(gather_object(values.detach().flatten().tolist()), dtype=torch.float64)


def _head(model: Any) -> Any:
    """The linear layer that scores; with PEFT, the wrapper that chooses between the old one and the trained one."""
    found = [(name, module) for name, module in model.named_modules() if name.split(".")[-1] == "score"]
    return min(found, key=lambda item: len(item[0]))[1]


def _window(inputs: dict[str, Any], length: int) -> Tensor:  # -> [N, T]
    """From where the responses part, or the one response begins, to the end."""
    steps = torch.arange(length, device=inputs["starts"].device)
    return (steps >= inputs["starts"][:, None]) & inputs["attention_mask"].bool()


def _mean_over(values: Tensor, window: Tensor) -> Tensor:  # [N, T, heads], [N, T] -> [N, heads]
    chosen = window[..., None].to(values.dtype)
    return (values * chosen).sum(1) / chosen.sum(1).clamp(min=1)


def _held(values: Tensor, index: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:  # -> [P, T, heads]
    """The scores of some responses at every step; after the end of one, its last."""
    places = torch.minimum(steps[None], lengths[index, None] - 1)  # [P, T]
    return values[index[:, None], places]
