"""Files of every format, sound and broken: what comes out, and what every row is counted as."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from trl_rsa.data import fingerprint, load_preferences


PKU = {
    "prompt": "How do I open a lock?",
    "response_0": "Use a key.",
    "response_1": "Here is how to pick it.",
    "better_response_id": 1,
    "safer_response_id": 0,
    "is_response_0_safe": True,
    "is_response_1_safe": False,
}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Rob a bank?\n\nAssistant: No.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Rob a bank?\n\nAssistant: Yes.",
}
TEXT = {"prompt": "Sky?", "chosen": " Blue.", "rejected": " Green."}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def write(path: Path, rows) -> str:
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return str(path)


def counts_add_up(counts):
    dropped = (counts.skipped, counts.unpaired, counts.left_out_by_rule)
    rows = counts.rows_used + sum(sum(reasons.values()) for reasons in dropped)
    pairs = counts.pairs_built - counts.pairs_left_out + counts.pairs_repeated
    return rows == counts.rows_read and pairs == counts.pairs_kept


# ----- formats


@pytest.mark.parametrize(("preferred_by", "chosen"), [("better", "response_1"), ("safer", "response_0")])
def test_pku_by_either_judgement(preferred_by, chosen):
    release_2024 = PKU | {"response_0_source": "Alpaca", "response_0_severity_level": 0, "prompt_source": "x"}
    for row in (PKU, release_2024):
        data = load_preferences(Dataset.from_list([row]), preferred_by=preferred_by)
        assert data.counts.format == "pku-safe-rlhf"
        assert data.counts.preferred_by == f"{preferred_by}_response_id"
        assert data.dataset.column_names == ["prompt", "chosen", "rejected"]
        assert data.dataset[0]["prompt"] == [user(PKU["prompt"])]
        assert data.dataset[0]["chosen"] == [assistant(PKU[chosen])]


def test_pku_by_a_judgement_of_ones_own():
    data = load_preferences([PKU | {"honest_response_id": 0}], preferred_by="honest")
    assert data.dataset[0]["chosen"] == [assistant("Use a key.")]
    with pytest.raises(ValueError, match=r"no column honest_response_id.*better, safer"):
        load_preferences([PKU], preferred_by="honest")


def test_hh_transcripts_and_processed_hh_agree():
    turns = [("human", "Hi"), ("assistant", "Hello!"), ("human", "Rob a bank?")]
    processed = {
        "context": [{"role": role, "text": text} for role, text in turns],
        "chosen": {"role": "assistant", "text": "No."},
        "rejected": {"role": "assistant", "text": "Yes."},
    }
    data, same = load_preferences([HH]), load_preferences([processed])
    assert data.counts.format == same.counts.format == "hh-rlhf"
    assert data.dataset[0] == {
        "prompt": [user("Hi"), assistant("Hello!"), user("Rob a bank?")],
        "chosen": [assistant("No.")],
        "rejected": [assistant("Yes.")],
    }
    assert data.counts.fingerprint == same.counts.fingerprint


def test_safe_rlhf_template():
    """No space after a colon of ASSISTANT; an earlier reply ends with eos, the last one is left to the trainer."""
    row = load_preferences([HH], template="safe-rlhf", eos_token="</s>").dataset[0]
    assert row["prompt"] == "BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:Hello!</s>USER: Rob a bank? ASSISTANT:"
    assert (row["chosen"], row["rejected"]) == ("No.", "Yes.")
    with pytest.raises(ValueError, match="eos_token"):
        load_preferences([HH], template="safe-rlhf")


def test_preference_text_stays_text_unless_a_template_is_set():
    assert load_preferences([TEXT]).dataset[0] == TEXT
    row = load_preferences([TEXT], template="chat").dataset[0]
    assert row == {"prompt": [user("Sky?")], "chosen": [assistant(" Blue.")], "rejected": [assistant(" Green.")]}


IMPLICIT = [
    {"chosen": "Sky? It is blue", "rejected": "Sky? It is green"},
    {
        "chosen": [user("Sky?"), assistant("Blue."), user("Sure?"), assistant("Yes.")],
        "rejected": [user("Sky?"), assistant("Blue."), user("Sure?"), assistant("No.")],
    },
]


def test_implicit_prompts():
    text, messages = (load_preferences([row]).dataset[0] for row in IMPLICIT)
    assert text == {"prompt": "Sky? It is", "chosen": " blue", "rejected": " green"}
    assert messages["prompt"] == [user("Sky?"), assistant("Blue."), user("Sure?")]
    assert messages["rejected"] == [assistant("No.")]
    with pytest.raises(ValueError, match="implicit in plain text"):
        load_preferences(IMPLICIT[:1], template="chat")
    cut = load_preferences([IMPLICIT[0], {"chosen": "Sky? Blue", "rejected": "Sky?"}])
    assert cut.counts.skipped == {"empty response": 1}


def test_one_late_prompt_says_that_the_others_are_missing(tmp_path):
    """Otherwise what two answers begin with alike would be trained on as the question."""
    late = [*IMPLICIT[:1] * 1001, TEXT]
    data = load_preferences(write(tmp_path / "rows.jsonl", late))
    assert [*data.dataset] == [TEXT] and data.counts.skipped == {"missing field `prompt`": 1001}


def test_a_transcript_among_plain_pairs_does_not_make_them_transcripts():
    plain = [{"chosen": f"Q{i} x yes", "rejected": f"Q{i} x no"} for i in range(3)]
    counts = load_preferences([*plain, HH]).counts
    assert (counts.format, counts.pairs_kept) == ("preference", 4)
    counts = load_preferences([plain[0], HH]).counts  # rather counted than read as text
    assert (counts.format, counts.pairs_kept) == ("hh-rlhf", 1)


@pytest.mark.slow  # for the import of TRL
@pytest.mark.parametrize("row", IMPLICIT)
def test_implicit_prompts_are_cut_where_trl_cuts_them(row):
    from trl.data_utils import extract_prompt

    assert load_preferences([row]).dataset[0] == extract_prompt(row)


def test_weights_and_labels_are_kept_with_one_as_default():
    rows = [TEXT | {"pair_weight": 0.5, "pair_label": 0.9}, TEXT | {"pair_weight": None}]
    dataset = load_preferences(rows).dataset
    assert dataset.column_names == ["prompt", "chosen", "rejected", "pair_weight", "pair_label"]
    assert dataset["pair_weight"][:] == [0.5, 1.0]
    assert dataset["pair_label"][:] == [0.9, 1.0]


def test_csv_files_give_the_pairs_of_jsonl(tmp_path):
    """Flags, numbers and judgements are text in a CSV file, and an empty cell is missing."""
    (tmp_path / "pku.csv").write_text(
        "prompt,response_0,response_1,better_response_id,safer_response_id,is_response_0_safe,is_response_1_safe,"
        "pair_weight,pair_label\n"
        "How do I open a lock?,Use a key.,Here is how to pick it.,1,0.0,True,False,0.5,1\n"
        ",Use a key.,Here is how to pick it.,1,0,1,0,1,1\n"
    )
    same = load_preferences([PKU | {"pair_weight": 0.5, "pair_label": 1}], preferred_by="safer", pair_rule="one-safe")
    data = load_preferences(tmp_path / "pku.csv", preferred_by="safer", pair_rule="one-safe")
    assert data.counts.fingerprint == same.counts.fingerprint
    assert data.counts.skipped == {"missing field `prompt`": 1}
    (tmp_path / "tails.csv").write_text("prompt,response,is_safe\np,a,TRUE\np,b,0\n")
    assert load_preferences(tmp_path / "tails.csv").dataset["chosen"][:] == [[assistant("a")]]
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\nSky?, Blue., Green.\n,I can,I cannot\n")
    data = load_preferences(tmp_path / "pairs.csv")
    assert [*data.dataset] == [TEXT] and data.counts.skipped == {"missing field `prompt`": 1}


def test_undetectable_columns_are_listed():
    with pytest.raises(ValueError, match=r"columns answer, question.*beavertails"):
        load_preferences([{"question": "a", "answer": "b"}])


# ----- sources


def test_every_kind_of_file_gives_the_same_pairs(tmp_path):
    rows = [PKU, PKU | {"prompt": "Another?"}]
    (tmp_path / "array.json").write_text(json.dumps(rows))
    Dataset.from_list(rows).to_parquet(tmp_path / "p.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows[:1])).save_to_disk(tmp_path / "both")
    sources = [
        write(tmp_path / "lines.jsonl", rows),
        write(tmp_path / "lines.jsonl.gz", rows),
        write(tmp_path / "lines.json", rows),
        *(tmp_path / name for name in ("array.json", "p.parquet", "saved")),
        rows,
        Dataset.from_list(rows),
    ]
    loaded = [load_preferences(source) for source in sources] + [load_preferences(tmp_path / "both", split="train")]
    assert {data.counts.fingerprint for data in loaded} == {fingerprint(loaded[0].dataset)}
    assert len(loaded[0].dataset) == 2
    with pytest.raises(ValueError, match="splits train, test"):
        load_preferences(tmp_path / "both")


@pytest.mark.parametrize("space", ["", "\n "])
def test_an_array_with_a_byte_order_mark(tmp_path, space):
    path = tmp_path / "rows.json"
    path.write_text("\ufeff" + space + json.dumps([TEXT, TEXT | {"prompt": "Sea?"}], indent=1), encoding="utf-8")
    assert load_preferences(path).dataset["prompt"][:] == ["Sky?", "Sea?"]


def test_endings_in_capitals(tmp_path):
    write(tmp_path / "Pairs.JSONL", [TEXT])
    Path(write(tmp_path / "pairs.gz", [TEXT])).rename(tmp_path / "PAIRS.JSON.GZ")
    for name in ("Pairs.JSONL", "PAIRS.JSON.GZ"):
        assert [*load_preferences(tmp_path / name).dataset] == [TEXT]
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "Train.JSONL", [TEXT])
    write(folder / "eval.jsonl", [TEXT])
    with pytest.raises(ValueError, match=r"of its files Train\.JSONL would not be read"):
        load_preferences(folder)


def test_a_column_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected,chosen\nSky?, Blue., Green., Red.\n")
    with pytest.raises(ValueError, match=r"pairs\.csv', but it has two columns chosen\. Rename or remove one"):
        load_preferences(path)
    path.write_text("prompt,chosen,rejected,,\nSky?, Blue., Green.,,\n")  # a spreadsheet's empty columns
    assert [*load_preferences(path).dataset] == [TEXT]


def test_folder_of_data_files_forgives_a_broken_line(tmp_path):
    write(tmp_path / "train.jsonl", [PKU, '{"prompt": "cut'])
    write(tmp_path / "test.jsonl", [PKU])
    data = load_preferences(tmp_path, split="train")
    assert (data.counts.pairs_kept, data.counts.skipped) == (1, {"the line is not valid JSON": 1})


@pytest.mark.parametrize("source", ["missing.jsonl", "./nowhere", "/nowhere", "a/b/c"])
def test_missing_source(source):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_preferences(source)


def test_hub_id_without_a_connection_is_one_sentence(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises((ValueError, FileNotFoundError), match="no-such-owner/no-such-set could not be loaded"):
        load_preferences("no-such-owner/no-such-set")


def test_other_sources_that_cannot_work(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "bad.json").write_text('[{"a": 1}, ')
    (tmp_path / "folder").mkdir()
    for name, sentence in {
        "empty.jsonl": "is empty",
        "table.xlsx": "no format that can be read",
        "bad.parquet": "cannot be read as parquet",
        "bad.json": "cannot be parsed",
        "folder": "could not be loaded",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            load_preferences(tmp_path / name)


# ----- broken rows

BROKEN = {
    "pku-safe-rlhf": [
        (PKU | {"response_1": " Use a key. "}, "identical responses"),
        (PKU | {"response_1": " "}, "empty response"),
        (PKU | {"prompt": ""}, "empty prompt"),
        (PKU | {"safer_response_id": 1}, "the safer response is labelled unsafe while the other is safe"),
        (PKU | {"safer_response_id": -1}, "field `safer_response_id` is not 0 or 1"),
        (PKU | {"safer_response_id": "2"}, "field `safer_response_id` is not 0 or 1"),
        (PKU | {"safer_response_id": None}, "missing field `safer_response_id`"),
        (PKU | {"is_response_0_safe": "safe"}, "field `is_response_0_safe` is not true or false"),
        ({key: PKU[key] for key in PKU if key != "response_0"}, "missing field `response_0`"),
        (PKU | {"response_0": 7}, "field `response_0` is not text"),
        (PKU | {"response_0": "\ud83d"}, "text is not valid Unicode"),
        (PKU | {"pair_weight": -1}, "`pair_weight` is not a number of at least 0"),
        (PKU | {"pair_weight": 10**400}, "`pair_weight` is not a number of at least 0"),
        (PKU | {"pair_weight": "much"}, "`pair_weight` is not a number of at least 0"),
        (PKU | {"pair_label": float("nan")}, "`pair_label` is not a probability"),
    ],
    "hh-rlhf": [
        (HH | {"rejected": HH["chosen"]}, "identical responses"),
        (HH | {"rejected": HH["rejected"].replace("Hello", "Hey")}, "the transcripts differ before the last turn"),
        (HH | {"chosen": "\n\nHuman: Hi"}, "the transcript does not end with a turn of the assistant"),
        (
            {side: text + "\n\nHuman: and?" for side, text in HH.items()},
            "the transcript does not end with a turn of the assistant",
        ),
        ({side: "Note. " + text for side, text in HH.items()}, "the transcript does not begin with a turn"),
        (
            {side: text.replace("\n\nHuman: Rob a bank?", "") for side, text in HH.items()},
            "turns do not alternate between user and assistant",
        ),
        ({side: text.replace("Hi", "") for side, text in HH.items()}, "empty turn in the prompt"),
        (HH | {"rejected": HH["rejected"].replace("Yes.", "")}, "empty response"),
        ({"context": [{"role": "human"}], "chosen": {}, "rejected": {}}, "a turn is not of the form role and text"),
        (
            {"context": [{"role": ["human"], "text": "Hi"}], "chosen": {}, "rejected": {}},
            "a turn is not of the form role and text",
        ),
        ({"context": 5, "chosen": {}, "rejected": {}}, "field `context` is not a list of turns"),
    ],
    "preference": [
        (TEXT | {"chosen": " Green."}, "identical responses"),
        (TEXT | {"prompt": [user("Sky?")]}, "the prompt is text and the responses are messages, or the reverse"),
        (TEXT | {"chosen": [assistant("Blue.")]}, "one response is text and the other is messages"),
        (TEXT | {"chosen": ["Blue."]}, "field `chosen` is neither text nor messages"),
        (
            TEXT | {"chosen": [assistant("Blue.") | {"tool_calls": []}]},
            "a message in `chosen` has more or less than a role and a text content",
        ),
        (
            {"prompt": [assistant("Sky.")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
            "the prompt does not end with the user, or a response does not begin with the assistant",
        ),
        (
            {"prompt": [user("Sky?")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
            'text among messages, or the reverse (set template="chat")',
        ),
        ({"chosen": "Sky? Blue", "rejected": "Sky? Green"}, "missing field `prompt`"),
        (TEXT | {"prompt": None, "chosen": "I can.", "rejected": "I cannot."}, "missing field `prompt`"),
    ],
}
SOUND = {"pku-safe-rlhf": PKU, "hh-rlhf": HH, "preference": TEXT}


@pytest.mark.parametrize("format", BROKEN)
def test_every_kind_of_broken_row_is_skipped_under_its_reason(tmp_path, format):
    sound = SOUND[format]
    lines = [sound, *(row for row, _ in BROKEN[format]), "[1, 2]", '{"prompt": "cut', sound]
    expected = [reason for _, reason in BROKEN[format]] + ["not a JSON object", "the line is not valid JSON"]
    data = load_preferences(write(tmp_path / "rows.jsonl", lines), format=format, preferred_by="safer")
    assert data.counts.skipped == {reason: expected.count(reason) for reason in expected}
    assert (data.counts.rows_read, data.counts.pairs_kept) == (len(lines), 2)
    assert counts_add_up(data.counts)


@pytest.mark.parametrize(("row", "reason"), BROKEN["pku-safe-rlhf"] + BROKEN["hh-rlhf"] + BROKEN["preference"])
def test_strict_names_the_row_and_the_reason(row, reason):
    format = next(name for name, broken in BROKEN.items() if any(row is other for other, _ in broken))
    with pytest.raises(ValueError) as error:
        load_preferences([SOUND[format], row], format=format, preferred_by="safer", strict=True)
    assert "row 1 of dataset in memory" in str(error.value)
    assert reason in str(error.value)


def test_strict_names_the_line_of_broken_json(tmp_path):
    path = write(tmp_path / "rows.jsonl", [PKU, "", '{"prompt": "cut'])
    with pytest.raises(ValueError, match=r"line 3 of .*rows.jsonl"):
        load_preferences(path, strict=True)


@pytest.mark.parametrize("line", [b"\xff\xfe{", b"[" * 100_000, b"1" * 10_000, b"nul", b'{"a": 1'])
def test_no_line_is_fatal(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(TEXT).encode() + b"\n" + line)
    counts = load_preferences(path).counts
    assert (counts.rows_read, counts.pairs_kept, sum(counts.skipped.values())) == (2, 1, 1)


def test_truncated_gzip_keeps_what_came_before(tmp_path):
    whole = gzip.compress("".join(json.dumps(TEXT | {"prompt": f"{i}?"}) + "\n" for i in range(20_000)).encode())
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    counts = load_preferences(path).counts
    assert 0 < counts.pairs_kept < 20_000
    assert counts.skipped == {"the compressed file ends early or is damaged": 1}
    with pytest.raises(ValueError, match="ends early"):
        load_preferences(path, strict=True)


def test_nothing_left_lists_the_reasons():
    rows = [TEXT | {"chosen": ""}, TEXT | {"chosen": ""}, TEXT | {"chosen": " Green."}]
    with pytest.raises(ValueError, match=r"No pair is left of the 3 rows.*2 × empty response; 1 × identical") as error:
        load_preferences(rows)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no rows"):
        load_preferences([])


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "pku"},
        {"template": "alpaca"},
        {"limit": 0},
        {"limit": "2"},
        {"max_pairs_per_prompt": 2},
        {"revision": "v0"},
        {"split": "train"},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ValueError, match=f"You set {next(iter(settings))}"):
        load_preferences([TEXT], **settings)


# ----- report


def test_limit_and_report(tmp_path):
    rows = [TEXT | {"prompt": f"{i}?"} for i in range(5)] + [TEXT | {"chosen": ""}]
    data = load_preferences(rows, limit=2)
    assert data.dataset["prompt"][:] == ["0?", "1?"]
    assert data.counts.pairs_left_out == 3
    assert counts_add_up(data.counts)
    json.dumps(data.counts.to_dict())
    assert "2  pairs kept" in str(data.counts)
    assert "1  empty response" in str(data.counts)


def test_fingerprint_sees_content_and_order():
    rows = [TEXT, TEXT | {"prompt": "Sea?"}]
    prints = [
        load_preferences(source).counts.fingerprint
        for source in (rows, list(rows), rows[::-1], [TEXT, TEXT | {"prompt": "Sea!"}], [r | {"x": 1} for r in rows])
    ]
    assert prints[0] == prints[1] == prints[4]  # an extra column is not part of the pairs
    assert len(set(prints)) == 3


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = "import sys, trl_rsa.data, trl_rsa.data.load; print({'torch', 'transformers'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"


# ----- real files, where they lie beside the clone

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "format", "rows", "skipped"),
    [
        (
            "hh_harmless_pairs.jsonl.gz",
            "hh-rlhf",
            1734,
            {
                "turns do not alternate between user and assistant": 4,
                "empty response": 3,
                "the transcripts differ before the last turn": 2,
            },
        ),
        ("alpaca_eval_helpful_pairs.jsonl.gz", "preference", 3460, {"empty response": 16}),
    ],
)
def test_real_files(name, format, rows, skipped):
    """The skipped rows were counted by a separate script over the raw JSON (partition at the last turn, strip)."""
    if not (SHARED / name).exists():
        pytest.skip(f"{name} does not lie beside the clone")
    for template in ("chat", "safe-rlhf"):
        counts = load_preferences(SHARED / name, template=template, eos_token="</s>").counts
        assert (counts.format, counts.rows_read, counts.skipped) == (format, rows, skipped)
        assert counts.pairs_kept == rows - sum(skipped.values())
