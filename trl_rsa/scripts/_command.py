"""Runs one command: its arguments in, its exit status out, and what the user can mend in one sentence.

A command is a module `trl_rsa/scripts/<name>.py` (with `_` for `-`) with

* `make_parser()`, an `argparse.ArgumentParser` (or a subclass: `parse_args` may return anything),
* `main(args) -> int | None`, which is given what `parse_args` returned; `None` is success,
* optionally `IMPORTS`, the modules with all that `main` needs in the end, which are imported before it,
* optionally `INTERRUPTED`, a sentence that says what Ctrl-C has left behind,
* optionally `launch(args, argv, launcher) -> int | None`, which `main` gives way to if the arguments ask for processes
  (`--accelerate_config`, or another argument of `accelerate launch`); `argv` are the command's own arguments.
"""

import difflib
import errno
import gzip
import os
import re
import sys
import time
import traceback
import zlib
from argparse import SUPPRESS, ArgumentParser, _SubParsersAction
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from trl_rsa import _process
from trl_rsa._quiet import hush
from trl_rsa.scripts._pages import page_for
from trl_rsa.storage.printable import printable


DEBUG = "TRL_RSA_DEBUG"  # set to anything but nothing: errors show where they were raised

_PACKAGE = Path(__file__).resolve().parents[1]


# A value such as -1e-3 or -5. is no flag; argparse knows -1 and -0.5 alone.
_NEGATIVE = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
# argparse: "invalid choice: 'nxt' (choose from 'next', 'import')"; later Pythons leave the inner quotes out.
_NO_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class UsageError(ValueError):
    """The command line or its YAML file is not as the command needs it."""


def run_command(name: str, argv: list[str] | None = None, launched: bool = False) -> int:
    """
    Runs a command.

    Args:
        name (`str`):
            Name of the command.
        argv (`list[str]`, *optional*):
            Its arguments, without the command itself; defaults to `sys.argv[1:]`.
        launched (`bool`, *optional*, defaults to `False`):
            Whether this is one of the processes that the command has started, and must not start more.

    Returns:
        `int`: exit status: what the command returned, 0 if that was `None`; 2 after an error that the user can mend,
        of which one sentence stands on stderr, with the page that helps; 130 after Ctrl-C.

    Raises:
        Exception: whatever is a bug of ours. With `TRL_RSA_DEBUG=1` every error, with its traceback.
    """
    hush()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot write is shown as its escape

    def work() -> int | None:
        module = import_module(f"trl_rsa.scripts.{name.replace('-', '_')}")
        arguments = sys.argv[1:] if argv is None else argv
        launchable = hasattr(module, "launch") and not launched and int(os.environ.get("WORLD_SIZE", "1")) == 1
        try:
            return (_launch if launchable else _run)(module, arguments, f"trl-rsa {name}")
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(getattr(module, "INTERRUPTED", "")) from stop

    return exit_status(f"trl-rsa {name}", work)


def exit_status(prog: str, work: Callable[[], int | None]) -> int:
    """
    Does `work` and says what a user must know about its end.

    Args:
        prog (`str`):
            Name of the program, before what is said.
        work (`Callable[[], int | None]`):
            A `KeyboardInterrupt` out of it may hold a sentence about what it has left behind.

    Returns and raises what [`run_command`] does.
    """
    try:
        return work() or 0
    except SystemExit as stop:  # argparse's --help
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt as stop:
        print(f"{prog}: stopped. {stop}".rstrip(), file=sys.stderr)
        return 130
    except BrokenPipeError:  # `trl-rsa data … | head`: nobody reads on, and Python must not flush into the void
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get(DEBUG):
            raise
        if os.environ.get("RANK", "0") != "0":
            time.sleep(5)  # if the first process fails alike, the launcher ends this one before it says the same again
        page = page_for(prog.removeprefix("trl-rsa "), sentence)
        print(f"{prog}: error: {printable(sentence)}" + (f" (See {page}.)" if page else ""), file=sys.stderr)
        return 2


def _run(module: Any, argv: list[str], prog: str) -> int | None:
    arguments = parse_arguments(module.make_parser(), argv, prog)
    _import(module)
    return module.main(arguments)


def _import(module: Any) -> None:
    """All at once: [`_process.imported`] can then be called for all of it."""
    for name in getattr(module, "IMPORTS", ()):
        import_module(name)
    _process.imported()


def _launch(module: Any, argv: list[str], prog: str) -> int | None:
    from trl_rsa.scripts._launch import launch_names, make_launcher, split_arguments

    parser = module.make_parser()
    own, words = split_arguments(parser, argv)
    arguments = parse_arguments(parser, own, prog, others=lambda: [f"--{name}" for name in launch_names()])
    launcher = make_launcher(words, getattr(parser, "launch", {}))
    _import(module)
    return module.main(arguments) if launcher is None else module.launch(arguments, own, launcher)


def parse_arguments(
    parser: ArgumentParser, argv: list[str], prog: str, others: Callable[[], Iterable[str]] = tuple
) -> Any:
    """What `parser.parse_args(argv)` returns, with its errors raised as [`UsageError`] and no abbreviated flags.

    `others` gives flags that are taken elsewhere: a mistaken flag may be meant for them. Where `parser.renamed` has an
    old name of a flag, the error names the new one.
    """

    def fail(message: str) -> NoReturn:
        file = next((word for word in argv if word.endswith((".yaml", ".yml"))), None)
        takes = "--config" in parser._option_string_actions
        given = any(word.split("=")[0] == "--config" for word in argv)
        if takes and not given and file and {file, "--config"} & set(message.split()):
            raise UsageError(f"{message}. Give the file as --config {file}.")
        wrong = _NO_CHOICE.search(message)
        if wrong:
            raise UsageError(message + did_you_mean(wrong[1], re.split(r"'?, '?", wrong[2].strip("'"))))
        flags = {flag for each in parsers for flag in each._option_string_actions}
        # A flag that is missing may be there with a slip of the pen.
        where = f"{message} {' '.join(argv)}" if "are required" in message else message
        unknown = [flag for flag in re.findall(r"--[\w-]+", where) if flag not in flags]
        raise UsageError(message + did_you_mean(unknown, [*flags, *others()] if unknown else []))

    parser.prog = prog
    parser.allow_abbrev = False
    parsers = [parser, *_subparsers(parser)]
    for each in parsers:
        each._negative_number_matcher = _NEGATIVE
        each.error = fail  # type: ignore[method-assign]
    for old, new in getattr(parser, "renamed", {}).items():
        if any(word.split("=")[0] == f"--{old}" for word in argv):
            raise UsageError(f"You set --{old}, but it is called --{new} now. Write --{new}.")
    return parser.parse_args(argv)


def _subparsers(parser: ArgumentParser) -> list[ArgumentParser]:
    several = [action.choices for action in parser._actions if isinstance(action, _SubParsersAction)]
    return [each for choices in several for each in choices.values()]


def _full_disk(error: BaseException) -> str | None:
    """The sentence for a full disk, which libraries in other languages report in words of their own."""
    seen: BaseException | None = error
    while seen is not None:
        no_space = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if no_space or "No space left on device" in str(seen):
            name = getattr(seen, "filename", None) or getattr(error, "filename", None)
            where = f" for {name}" if name else ""
            return f"The disk is full: there is no room{where}. Make room, and start again; what is written stays."
        seen = seen.__cause__ or seen.__context__
    return None


def did_you_mean(words: str | Iterable[str], known: Iterable[str]) -> str:
    """`". Did you mean …?"` with the known word nearest to each of `words`, or nothing if none is near."""
    several, known = [words] if isinstance(words, str) else words, list(known)
    near = [close for word in several for close in difflib.get_close_matches(word, known, n=1)]
    return f". Did you mean {' and '.join(dict.fromkeys(near))}?" if near else ""


def add_plan(parser: ArgumentParser, help: str) -> None:
    """A plan as the first word, or as `trl-rsa align` and TRL take it, after `--config`."""
    parser.add_argument("plan", nargs="?", default=SUPPRESS, metavar="PLAN.yaml", help=help)
    parser.add_argument("--config", dest="plan", metavar="PLAN.yaml", help="the same, as `trl-rsa align` takes it")


def explain(error: Exception) -> str | None:
    """
    The sentence for an error that the user can mend; `None` for a bug, which must keep its traceback.

    Libraries say "your argument is wrong" by raising a ValueError, ImportError or OSError on purpose, and so do we
    (also a TypeError). The same classes come out of operations that stumble (`int("x")`, `len(None)`): those are bugs.
    """
    import yaml

    text = " ".join(str(error).split())
    if isinstance(error, UsageError):
        return text
    if isinstance(error, yaml.YAMLError):
        return f"The YAML file cannot be read: {text}"
    if full := _full_disk(error):
        return full
    if type(error).__name__ == "SafetensorError":
        return f"A file of weights cannot be read: {text}. It is damaged or cut: fetch or save the model again."
    if isinstance(error, EOFError | gzip.BadGzipFile | zlib.error):
        return f"A compressed file cannot be read: {text}. It is damaged or cut: fetch or write it again."
    if type(error).__name__ == "ArrowInvalid":
        return f"A file of rows cannot be read: {text}. Correct the row; `trl-rsa data` counts those that are broken."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, ValueError) and "embedded null" in text:
        return "You gave a path that holds a NUL character, but no file has such a name. Correct it."
    if isinstance(error, UnicodeEncodeError) and "surrogates" in text:
        return f"You gave {ascii(error.object)[:80]}, which holds half of a surrogate pair, no character. Correct it."
    if isinstance(error, RuntimeError) and "determine home directory" in text:
        return "You gave a path that begins with ~ and a name, but there is no such user. Write the folder out."
    if isinstance(error, RuntimeError) and "Symlink loop" in text:
        return f"You gave a path that leads in a circle of links ({text}). Correct the link."
    raised = traceback.extract_tb(error.__traceback__)[-1]
    if not (raised.line or "").startswith("raise"):
        return None
    if Path(raised.filename).is_relative_to(_PACKAGE):
        return text if isinstance(error, ValueError | TypeError | ImportError | OSError) else None
    if isinstance(error, ValueError | ImportError | OSError):
        return f"{text} ({DEBUG}=1 shows where this comes from.)"
    return None
