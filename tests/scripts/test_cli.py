"""`trl-rsa`: dispatch, exit statuses, and errors in one sentence."""

import argparse
import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import trl_rsa
from trl_rsa.cli import COMMANDS, main
from trl_rsa.scripts import _command


@pytest.fixture
def run_fake(monkeypatch):
    """`run_fake(main, argv=[])`: runs `main` as the command `fake`, which has the flag --number."""

    def run(main, argv=()):
        def make_parser():
            parser = argparse.ArgumentParser()
            parser.add_argument("--number", type=int)
            return parser

        module = SimpleNamespace(make_parser=make_parser, main=main, INTERRUPTED="Started again it resumes.")
        monkeypatch.setattr(_command, "import_module", lambda name: module)
        return _command.run_command("fake", list(argv))

    return run


def _fails_with(error: Exception):
    def main(args):
        raise error

    return main


# Dispatch


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name}" in out and text in out for name, text in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_listed_command_exists(name):
    spec = importlib.util.find_spec("trl_rsa.scripts." + name.replace("-", "_"))
    assert spec is not None, f"trl_rsa/scripts has no module for {name}"
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    assert {"make_parser", "main"} <= {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trl-rsa {trl_rsa.__version__}\n"


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("trian", "trl-rsa: error: unknown command trian. Did you mean train?"),  # codespell:ignore
        ("xyz", f"trl-rsa: error: unknown command xyz. The commands are {', '.join(COMMANDS)}."),
        ("--quiet", f"trl-rsa: error: unknown argument --quiet. The commands are {', '.join(COMMANDS)}."),
    ],
)
def test_unknown_command(word, sentence, capsys):
    assert main([word, "--number", "1"]) == 2
    assert capsys.readouterr().err == sentence + "\n"


def test_help_loads_nothing_heavy():
    code = "import sys; from trl_rsa.cli import main; main([]); print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"datasets", "numpy", "torch", "transformers", "trl", "yaml"} & set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "command", [[str(Path(sys.executable).with_name("trl-rsa"))], [sys.executable, "-m", "trl_rsa"]]
)
def test_installed_command(command):
    run = subprocess.run([*command, "data", "missing.jsonl"], capture_output=True, text=True, env=os.environ)
    assert run.returncode == 2
    assert run.stderr == (
        "trl-rsa data: error: There is no file or folder missing.jsonl. Check the path. (See docs/data.md.)\n"
    )


# Arguments


def test_arguments_reach_the_command(run_fake):
    seen = []
    assert run_fake(seen.append, ["--number", "3"]) == 0
    assert seen == [argparse.Namespace(number=3)]


@pytest.mark.parametrize("status", [0, 1, 7])
def test_status_of_the_command_is_returned(run_fake, status):
    assert run_fake(lambda args: status) == status


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--nubmer", "3"], "unrecognized arguments: --nubmer 3. Did you mean --number?"),
        (["--nubmer=3"], "unrecognized arguments: --nubmer=3. Did you mean --number?"),
        (["--num", "3"], "unrecognized arguments: --num 3. Did you mean --number?"),  # not taken as an abbreviation
        (["--xyz"], "unrecognized arguments: --xyz"),
        (["--hepl", "--nubmer=3"], "unrecognized arguments: --hepl --nubmer=3. Did you mean --help and --number?"),
        (["--number", "three"], "argument --number: invalid int value: 'three'"),
        (["--number"], "argument --number: expected one argument"),
    ],
)
def test_bad_arguments(run_fake, argv, sentence, capsys):
    assert run_fake(pytest.fail, argv) == 2
    assert capsys.readouterr().err == f"trl-rsa fake: error: {sentence}\n"


def test_help_of_a_command(run_fake, capsys):
    assert run_fake(pytest.fail, ["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: trl-rsa fake [-h] [--number NUMBER]")


# Errors


def test_our_error_is_one_sentence(run_fake, capsys):
    from trl_rsa.risk import CVaR

    assert run_fake(lambda args: CVaR(2.0)) == 2
    err = capsys.readouterr().err
    assert err.startswith("trl-rsa fake: error: You set tail=2.0") and err.count("\n") == 1
    assert _command.DEBUG not in err


@pytest.mark.parametrize("kind", [ValueError, OSError, ImportError])
def test_error_of_a_library_is_one_line_that_can_be_traced(run_fake, kind, capsys):
    """Raised in this file, which is not part of the package, as a library would: over two lines."""
    assert run_fake(_fails_with(kind("`a` needs `b`.\n\nSet it."))) == 2
    expected = "trl-rsa fake: error: `a` needs `b`. Set it. (TRL_RSA_DEBUG=1 shows where this comes from.)\n"
    assert capsys.readouterr().err == expected


def test_missing_file(run_fake, tmp_path, capsys):
    missing = tmp_path / "plan.yaml"
    assert run_fake(lambda args: missing.read_text()) == 2
    assert capsys.readouterr().err == f"trl-rsa fake: error: No such file or directory: {missing}\n"


def test_broken_yaml(run_fake, tmp_path, capsys):
    import yaml

    plan = tmp_path / "plan.yaml"
    plan.write_text("stages: [a\nb: 1\n")

    def main(args):
        with plan.open() as file:
            yaml.safe_load(file)

    assert run_fake(main) == 2
    err = capsys.readouterr().err
    assert err.startswith("trl-rsa fake: error: The YAML file cannot be read: ") and err.count("\n") == 1
    assert f'in "{plan}", line 2' in err


@pytest.mark.parametrize(
    ("bug", "kind"),
    [
        (_fails_with(RuntimeError("shape mismatch")), RuntimeError),
        (_fails_with(KeyError("risk/chosen")), KeyError),
        (_fails_with(TypeError("not ours")), TypeError),
        (lambda args: int("x"), ValueError),  # nobody meant to raise it
        (lambda args: len(None), TypeError),
        (lambda args: importlib.import_module("trl_rsa.no_such_module"), ModuleNotFoundError),
    ],
)
def test_bug_keeps_its_traceback(run_fake, bug, kind):
    with pytest.raises(kind):
        run_fake(bug)


def test_debugging_shows_every_traceback(run_fake, monkeypatch):
    monkeypatch.setenv(_command.DEBUG, "1")
    with pytest.raises(ValueError, match="set it"):
        run_fake(_fails_with(ValueError("set it")))


def test_interruption(run_fake, capsys):
    def main(args):
        raise KeyboardInterrupt

    assert run_fake(main) == 130
    assert capsys.readouterr().err == "trl-rsa fake: stopped. Started again it resumes.\n"


# Other commands


@pytest.mark.parametrize("arguments", [["--sohw", "1"], ["--format", "nothing"], []])
def test_data_command_refuses_bad_arguments(arguments, capsys):
    source = ["pairs.jsonl"] if arguments else []
    assert main(["data", *source, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("trl-rsa data: error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["nxt", "runs"], "next"),
        (["next", "runs", "--outptu", "tasks.csv"], "--output"),
        (["import", "runs", "tasks.csv", "--formt", "csv"], "--format"),
        (["next", "runs", "--output", "tasks.csv", "--format", "cvs"], "csv"),
    ],
)
def test_a_slip_in_a_subcommand_finds_what_was_meant(words, meant, capsys):
    assert main(["audit", *words]) == 2
    assert f". Did you mean {meant}?" in capsys.readouterr().err
