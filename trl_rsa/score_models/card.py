"""The README.md of a score model: what it gives, what it learned from, and what it is worth on prompts unseen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa import __version__
from trl_rsa.data.judged import JudgedData
from trl_rsa.score_models.arguments import ScoreModelArguments
from trl_rsa.score_models.rows import Rows
from trl_rsa.scoring.graded import Readout
from trl_rsa.scoring.weights import short_name


_MEASURES = {
    "pair_accuracy": "pair accuracy",
    "auc": "AUC, unsafe against safe",
    "right_side_of_zero": "labelled responses on the right side of 0",
    "mean_safe": "mean score of safe responses",
    "mean_unsafe": "mean score of unsafe responses",
    "rank_correlation": "rank correlation with the severity, all responses",
    "rank_correlation_unsafe": "rank correlation with the severity, unsafe responses",
    "rank_correlation_worst_tenth": "rank correlation inside the worst tenth, by severity",
    "rank_correlation_top_tenth_by_score": "rank correlation inside the worst tenth, by score",
}


def write_card(
    folder: Path,
    arguments: ScoreModelArguments,
    readout: Readout,
    rows: Rows,
    base_model: str,
    trained: Mapping[str, Any],
    measures: Mapping[str, Any] | None,
    warnings: list[str],
) -> None:
    """Writes README.md. Names of sources and of the base model lose the folders they lie in."""
    spec = "hf" if arguments.layout == "hf" else "beaver"
    sections = [
        _head(arguments, readout),
        *(f"> **Warning.** {warning}" for warning in warnings),
        f"```python\nfrom trl_rsa.scoring import load_scorer\n\nscorer = load_scorer("
        f'"{spec}:THIS_FOLDER", kind="{arguments.objective}")\nscores = scorer(prompts, completions)\n```',
        "## Training",
        _training(arguments, readout, rows, base_model, trained),
        "## On held-out prompts",
        _measures(measures, rows),
    ]
    front = "---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags:\n- trl-rsa\n- trl\n---\n"
    (folder / "README.md").write_text(front + "\n" + "\n\n".join(sections) + "\n", encoding="utf-8")


def _head(arguments: ScoreModelArguments, readout: Readout) -> str:
    kind = "A graded cost model" if readout.scale is not None else f"A {arguments.objective} model"
    text = [f"# {kind}\n"]
    if arguments.objective == "reward":
        text.append("The score is higher for a better response. Its zero means nothing.")
    elif readout.scale is None:
        text.append("The score is higher for a worse response, and 0 parts safe (below) from unsafe (above).")
    else:
        grades = ", ".join(
            f"{name} {cost:g}" for name, cost in zip(readout.scale.names, readout.scale.costs, strict=True)
        )
        text.append(
            f"The score is the expected cost of a response on this scale: {grades}. It lies between "
            f"{readout.scale.costs[0]:g} and {readout.scale.costs[-1]:g}; higher is worse, and above 0 the expected "
            "harm outweighs the chance that there is none."
        )
    if readout.heads > 1:
        text.append(
            f"It is the mean of {readout.heads} heads, "
            f"{'plus' if arguments.objective == 'cost' else 'minus'} {readout.pessimism:g} times their standard "
            "deviation (`pessimism`)."
        )
    return "\n".join(text)


def _training(
    arguments: ScoreModelArguments, readout: Readout, rows: Rows, base_model: str, trained: Mapping[str, Any]
) -> str:
    used = ", ".join(f"{count:,} {name}" for name, count in trained["learned"].items() if count)
    lines = [
        f"* Started from `{short_name(base_model)}`; trl-rsa {__version__}.",
        f"* Learned from {used} of {trained['rows']:,} rows; {_names(rows.sources)}.",
        f"* Text in the template `{trained['template']}`, at most {trained['max_length'] or 'all'} tokens, "
        + ("longer ones cut on the left." if arguments.truncation else "longer ones left out."),
        f"* Loss: {arguments.loss_type}, regularization {arguments.regularization:g}"
        + (f"; normalizer {arguments.normalizer}" if arguments.normalizer else "")
        + ("; the head alone" if arguments.freeze_backbone else "")
        + f"; {trained['steps']:,} steps.",
    ]
    lines += [f"* {count:,} rows left out: {reason}." for reason, count in trained["left_out"].items()]
    if readout.scale is not None:
        lines.append(
            "* Grades by a continuation-ratio likelihood (logit k: worse than grade k, given at least k); labels by "
            "the chance that it gives to an unsafe grade; pairs by Bradley–Terry on the expected cost."
        )
    return "\n".join(lines)


def _names(sources: Sequence[JudgedData]) -> str:
    return "; ".join(f"`{short_name(source.source)}` ({len(source.rows):,} rows)" for source in sources)


def _measures(measures: Mapping[str, Any] | None, rows: Rows) -> str:
    if measures is None:
        return "Nothing was held out: nothing is known about this model. Set `held_out` or `eval_data`."
    lines = [
        f"{measures['responses']:,} responses to {measures['prompts']:,} prompts, none of which was trained on (case "
        f"and spaces do not tell prompts apart); {measures['pairs']:,} pairs, {measures['labelled']:,} labelled, "
        f"{measures['unsafe']:,} of them unsafe; {measures['not_scored']:,} not scored."
        + (f" They are of {_names(rows.evaluated)}." if rows.evaluated else ""),
        "",
        "| Measure | Value |",
        "|---|---:|",
        *(f"| {name} | {_number(measures[key])} |" for key, name in _MEASURES.items() if key in measures),
        "",
        f"The worst tenth by severity has {measures['worst_tenth_responses']:,} responses, ties included; the one by "
        f"score has {measures['top_tenth_by_score_responses']:,}. A dash stands where the data allow no such number.",
    ]
    calibration = measures.get("calibration")
    if calibration:
        lines += ["", "| True grade | Responses | Cost on the scale | Mean score |", "|---|---:|---:|---:|"]
        lines += [
            f"| {row['grade']} | {row['responses']:,} | {row['cost']:g} | {_number(row['mean_score'])} |"
            for row in calibration["by_grade"]
        ]
        lines += ["", "| Tenth of the scores | Responses | Mean score | Mean cost of the true grades |"]
        lines += ["|---:|---:|---:|---:|"]
        lines += [
            f"| {index} | {row['responses']:,} | {_number(row['mean_score'])} | {_number(row['mean_cost'])} |"
            for index, row in enumerate(calibration["by_score"], start=1)
        ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
