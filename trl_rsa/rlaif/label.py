"""label(): pairs that a judge compares by a constitution, with what is done on disk.

label
├── read_pairs, read_prompts     pairs.py           the rows
├── draw_principle               constitution.py    one principle for each, by seed
├── PairwiseJudge.compare        scoring/judge.py   both orders
├── revise                       revise.py          critique and revision
└── write_result                 result.py          rows for the trainer, and counts
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.rlaif.chat import REFUSED
from trl_rsa.rlaif.labelling import Labelling
from trl_rsa.rlaif.pairs import Unlabelled
from trl_rsa.rlaif.result import FeedbackLine, FeedbackReport, check_output, lines_path, write_result
from trl_rsa.rlaif.revise import NoReply, revise
from trl_rsa.scoring.endpoint import CUT
from trl_rsa.scoring.judge import PairwiseJudge
from trl_rsa.scoring.scorer import keyword_only
from trl_rsa.storage.lines import LineWriter, read_lines
from trl_rsa.storage.locks import hold_file


# Pairs between two lines on disk: all of them are asked at once.
CHUNK = 16
# Asked again, these rows would fare no better.
_FINAL = ("has no verdict", "does not fit", "the reply is empty", REFUSED, CUT)


def label(labelling: Labelling, log: Callable[[str], None] = print) -> FeedbackReport:
    """
    Labels every row that is not labelled yet, and writes the rows for the trainer.

    Each answer is on disk before the next ones are asked for: killed and started again, it goes on.

    Args:
        labelling ([`Labelling`]):
            What to do.
        log (`Callable[[str], None]`, *optional*):
            Where the lines about progress go.

    Returns:
        [`~rlaif.result.FeedbackReport`]: counts, as in `<output>.report.json`.

    Raises:
        ValueError: if a cap is reached or nothing answers; what is labelled by then is written.
    """
    check_output(labelling.output)
    progress = ProgressLog(log)
    source = labelling.read()
    path = lines_path(labelling.output)
    with hold_file(path):
        chat = labelling.open()
        keys = [labelling.key(row, chat) for row in source.rows]
        done: dict[str, FeedbackLine] = {line["key"]: line for line in read_lines(path)}  # type: ignore[misc]
        early = _take_early(labelling, source.rows, keys, done, chat)
        first: dict[str, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)  # rows that say the same are asked for once
        wanted = [index for key, index in first.items() if key not in done]
        known = sum(key in done for key in keys)
        if done and not known:
            progress(f"none of the {len(done)} lines in {path} is of this labelling: every row is asked for")
        if known:
            progress(f"{known} of {len(keys)} rows are labelled already")
        if early:
            progress(
                f"{early} of them by an earlier version, which wrote down the judge's name without its address. They "
                f"are kept; delete {path} to ask anew"
            )
        stopped = _ask(labelling, chat, source.rows, keys, wanted, done, path, progress)
        lines = [done[key] for key in keys if key in done]
        report = write_result(labelling, source, lines, chat)
    for line in describe(report):
        progress(line)
    if stopped:
        raise ValueError(
            f"You asked {chat.model} to label {len(keys)} rows, but {stopped}: {len(lines)} are labelled and written "
            f"to {labelling.output}. Raise the cap or mend the judge, and start again to go on."
        )
    return report


def _take_early(
    labelling: Labelling, rows: Sequence[Unlabelled], keys: Sequence[str], done: dict[str, FeedbackLine], chat: Any
) -> int:
    """Puts lines with an earlier version's key into `done`: they have been paid for. Returns how many."""
    found = 0
    for key, row in zip(keys, rows, strict=True):
        line = done.get(labelling.early_key(row, chat)) if key not in done else None
        if line is not None:
            done[key] = {**line, "key": key}
            found += 1
    return found


def _ask(
    labelling: Labelling,
    chat: Any,
    rows: Sequence[Unlabelled],
    keys: Sequence[str],
    wanted: Sequence[int],
    done: dict[str, FeedbackLine],
    path: Path,
    progress: ProgressLog,
) -> str | None:
    """Fills `done`. Returns why it stopped early, if it did."""
    ask = _compare if labelling.method == "compare" else _revise
    alike = Counter(keys)
    known = len(rows) - sum(alike[keys[index]] for index in wanted)
    refused: list[FeedbackLine] = []
    with LineWriter(path) as writer, progress.counting("labelled", known, len(rows)) as advance:
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            unanswered, answered = [], 0
            for index, line in zip(chunk, ask(labelling, chat, [rows[i] for i in chunk]), strict=True):
                if isinstance(line, NoReply):
                    unanswered.append(line.reason)
                    continue
                line["key"] = keys[index]
                refused.append(line)
                if not done and REFUSED in (line["reason"] or ""):
                    continue  # perhaps it takes none: then nothing is to be written down for good
                for one in refused:
                    writer.write(one)
                    done[one["key"]] = one
                    answered += alike[one["key"]]
                refused.clear()
            advance(answered)
            capped = next((r for r in unanswered if "(max_requests)" in r or "(max_cost)" in r), None)
            if capped or len(unanswered) == len(chunk):
                return capped or unanswered[0]
    return str(refused[0]["reason"]) if refused else None


def _compare(labelling: Labelling, chat: Any, rows: Sequence[Unlabelled]) -> list[FeedbackLine | NoReply]:
    lines: list[FeedbackLine | NoReply] = [NoReply("it was not asked")] * len(rows)
    principles = [labelling.principle(row) for row in rows]
    settings = _judge_options(labelling)
    for principle in dict.fromkeys(principles):
        judge = PairwiseJudge(chat, str(principle.compare), **settings)
        places = [i for i, one in enumerate(principles) if one is principle]
        found = judge.compare(
            [rows[i].prompt for i in places],
            [rows[i].first or "" for i in places],
            [rows[i].second or "" for i in places],
        )
        for i, comparison in zip(places, found, strict=True):
            # A judge that has answered without a verdict is not asked again; one that could not be reached is.
            if comparison.reason is not None and not _is_final(comparison.reason):
                lines[i] = NoReply(comparison.reason)
                continue
            lines[i] = {
                "key": "",
                "principle": principle.name,
                "reason": comparison.reason,
                "preference": comparison.preference,
                "forward": list(comparison.forward),
                "backward": list(comparison.backward),
            }
    return lines


def _revise(labelling: Labelling, chat: Any, rows: Sequence[Unlabelled]) -> list[FeedbackLine | NoReply]:
    settings = PairwiseJudge(chat, **_judge_options(labelling)).settings
    principles = [[labelling.principle(row, turn) for turn in range(labelling.rounds)] for row in rows]
    lines: list[FeedbackLine | NoReply] = []
    for own, outcome in zip(principles, revise(chat, rows, principles, settings), strict=True):
        named = ", ".join(principle.name for principle in own)
        if isinstance(outcome, NoReply):
            # The key of a line holds max_tokens: with others it is asked again.
            final = _is_final(outcome.reason)
            lines.append({"key": "", "principle": named, "reason": outcome.reason} if final else outcome)
            continue
        same = outcome.revised.strip() == _plain(outcome.original)
        lines.append(
            {
                "key": "",
                "principle": named,
                "reason": "the revision is the original" if same else None,
                "original": outcome.original,
                "revised": outcome.revised,
                "critiques": outcome.critiques,
            }
        )
    return lines


def _is_final(reason: str) -> bool:
    return any(word in reason for word in _FINAL)


def _judge_options(labelling: Labelling) -> dict[str, Any]:
    return {name: labelling.options[name] for name in keyword_only(PairwiseJudge) if name in labelling.options}


def _plain(text: Any) -> str:
    return (text if isinstance(text, str) else str(text[-1]["content"])).strip()


def describe(report: FeedbackReport) -> list[str]:
    """The counts in words."""
    counts = report["counts"]
    lines = [f"{counts['written']} pairs written of {counts['rows']} rows: " + _shares(counts)]
    if 2 * counts.get("without a verdict", 0) > counts["rows"]:
        lines.append("most replies hold no verdict: raise the judge's max_tokens, or take a more capable judge")
    if counts.get("with a reply that was cut"):
        lines.append("replies were cut at max_tokens: raise the judge's max_tokens")
    if counts.get("without a reply"):
        lines.append("rows without a reply are not asked for again; the lines beside the output say why")
    agreement, first_place, with_data = (report.get(name) for name in ("agreement", "first_place", "with_data"))
    if isinstance(agreement, float):
        lines.append(f"both orders give the same verdict in {agreement:.0%} of the pairs")
    if isinstance(first_place, float):
        lines.append(f"the response that stands first wins {first_place:.0%} of the verdicts; 50% is no bias")
    if isinstance(with_data, float):
        lines.append(f"the judge agrees with the data's own labels in {with_data:.0%} of the decided pairs")
    return lines


def _shares(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if name not in ("rows", "written"))
