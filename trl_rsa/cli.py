"""`trl-rsa`: dispatch only. Nothing heavy is imported before a command is chosen."""

import sys
from typing import NoReturn

from trl_rsa import __version__, _process
from trl_rsa.scripts._command import did_you_mean, run_command


# Each command is the module of its name in trl_rsa/scripts.
COMMANDS = {
    "train": "train one stage: TRL's dpo script with a risk-aware loss",
    "align": "align a model in stages, by a plan in a YAML file",
    "sweep": "align a plan at several settings: reward against the tail of harm",
    "presets": "show the plans of papers: SACPO, SafeDPO, TDPO, Safe RLHF, …",
    "score-model": "train a reward or cost model on pairs, labels and grades of harm",
    "data": "show what an adapter makes of a preference dataset",
    "label": "have a judge label pairs by a written constitution, or revise responses",
    "demo": "align a small model in the sandbox, from nothing to a report",
    "audit": "labels of people for what a ladder has drawn: out to files and in again",
    "evaluate": "sample, score and compare models, or a file of responses",
    "certify": "certify the tail of harm from recorded scores",
    "migrate": "turn a script of Safe RLHF, SACPO or align-anything into a plan",
    "merge": "average the weights of models, or the updates of adapters",
    "report": "make the page about the worst responses from the files of an evaluation",
    "doctor": "print versions, what works on this machine, and what a plan lacks here",
}

_USAGE = """\
usage: trl-rsa <command> [arguments]

Risk-aware Stepwise Alignment (RSA) for TRL.

commands:
{commands}

`trl-rsa <command> --help` describes a command; `trl-rsa --version` prints the version."""


def main(argv: list[str] | None = None) -> int:
    """
    Runs `trl-rsa` with the arguments `argv` (`sys.argv[1:]` by default) and returns the exit status: 0 for success, 2
    after an error that the user can mend, 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv else "--help"
    if command in COMMANDS:
        return run_command(command, argv[1:])
    if command in ("-h", "--help"):
        print(_USAGE.format(commands="\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())))
        return 0
    if command == "--version":
        print(f"trl-rsa {__version__}")
        return 0
    kind = "argument" if command.startswith("-") else "command"
    hint = did_you_mean(command, COMMANDS) or f". The commands are {', '.join(COMMANDS)}."
    print(f"trl-rsa: error: unknown {kind} {command}{hint}", file=sys.stderr)
    return 2


def run() -> NoReturn:
    """`trl-rsa` as a process."""
    _process.run(main)


if __name__ == "__main__":
    run()
