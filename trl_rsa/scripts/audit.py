"""`trl-rsa audit`: labels of people for the responses that a ladder has drawn, out to files and in again."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trl_rsa.scripts.audit_plan import add_parsers
from trl_rsa.storage.files import refuse_existing
from trl_rsa.storage.printable import printable


if TYPE_CHECKING:
    from trl_rsa.audits.queue import AuditQueue


SOME_ROWS_WRONG = 3  # the others were read

_EPILOG = """\
A plan whose constraint has `audit: {labeller: people}` waits for labels after each model that it observes:

  trl-rsa audit next runs/aligned --output tasks.csv        # responses without a label
  trl-rsa audit import runs/aligned tasks.csv               # the same file, with grades
  trl-rsa audit status runs/aligned
  trl-rsa align --config plan.yaml                          # goes on

docs/audits.md has the whole walk, with Label Studio and Argilla.
"""


def make_parser() -> argparse.ArgumentParser:
    from trl_rsa.audits.formats import FORMATS

    parser = argparse.ArgumentParser(
        prog="trl-rsa audit",
        description="Labels for the responses that a ladder has drawn: write them out, read them in, count them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="action", metavar="next|import|status|draw|plan", required=True)
    forms = ", ".join(FORMATS)

    following = commands.add_parser("next", help="write the responses that need a label", allow_abbrev=False)
    following.add_argument("--output", required=True, type=Path, metavar="FILE", help="where to write them")
    following.add_argument("--limit", type=int, metavar="N", help="at most so many")
    following.set_defaults(work=_next)

    importing = commands.add_parser("import", help="read labels", allow_abbrev=False)
    importing.set_defaults(work=_import)
    status = commands.add_parser("status", help="count what is drawn, labelled and missing", allow_abbrev=False)
    status.set_defaults(work=_status)
    for each in (following, importing, status):
        each.add_argument("run", type=Path, metavar="RUN", help="the output_dir of the plan")
        each.add_argument("--constraint", metavar="NAME", help="which constraint's audit, where there are several")
    importing.add_argument("file", type=Path, metavar="FILE", help="the labels")
    for each in (following, importing):
        each.add_argument("--format", choices=FORMATS, help=f"{forms} (default: by the file)")
        each.add_argument(
            "--labeller",
            metavar="NAME",
            help="who labels; a second label of a response comes from another name than the first",
        )
    add_parsers(commands)
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs a subcommand. Exit status: 0; 3 if rows of a file could not be used (the others were read)."""
    return args.work(args)


def _next(args: argparse.Namespace) -> int:
    from trl_rsa.audits.formats import format_of, label_studio_config, write_tasks
    from trl_rsa.audits.queue import AuditQueue

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"You set limit to {args.limit}, but it is a number of responses. Set 1 or more.")
    form = format_of(args.output, args.format)
    queue = AuditQueue.open(_folder(args))
    _refuse_unread_labels(args.output, form, queue)
    labels = queue.labels()
    missing = queue.missing()
    # A second label is worth something only from someone else.
    open_to_them = [request for request in missing if args.labeller not in labels.get(request["id"], {})]
    if not open_to_them:
        others = f" by another labeller than {args.labeller}: {len(missing)}" if missing else ""
        print(f"No response needs a label now{others}. Nothing was written.")
        return 0
    chosen = open_to_them[: args.limit]
    config, interface = args.output.with_suffix(".xml"), label_studio_config(queue.scale)
    if form == "label-studio" and config.exists() and config.read_text(encoding="utf-8") != interface:
        refuse_existing(config, "is not the interface of these labels")
    write_tasks(args.output, form, chosen, args.labeller)
    print(f"{len(chosen)} of {len(missing)} responses that need a label: {args.output}")
    names = queue.scale.names
    shown = [f"{name} ({number})" for number, name in enumerate(names)] if queue.scale.numbered else names
    print(f"Grades: {', '.join(shown)}")
    if form == "label-studio":
        config.write_text(interface, encoding="utf-8")
        print(f"Labelling interface of the project: {config}")
    return 0


def _refuse_unread_labels(path: Path, form: str, queue: "AuditQueue") -> None:
    """
    Raises:
        ValueError: if there is such a file, and it is no file of labels, or holds some that were not imported.
    """
    from trl_rsa.audits.formats import read_labels

    if not path.exists():
        return
    try:
        found = read_labels(path, form, queue.scale, None)
    except ValueError:
        refuse_existing(path, "is no file of labels")
        raise
    known = queue.labels()
    unread = [label for label in found.labels if known.get(label["id"], {}).get(label["labeller"]) != label["grade"]]
    if unread or found.wrong:
        held = len(unread) + sum(map(len, found.wrong.values()))
        raise ValueError(
            f"You set output to {str(path)!r}, but this file holds {held} labels that were "
            "not imported. Import it first (trl-rsa audit import), or name another."
        )


def _import(args: argparse.Namespace) -> int:
    from trl_rsa.audits.formats import form_of_labels, read_labels, wrong_in_words
    from trl_rsa.audits.queue import AuditQueue

    queue = AuditQueue.open(_folder(args))
    found = read_labels(args.file, form_of_labels(args.file, args.format), queue.scale, args.labeller)
    added = queue.add_labels(found.labels, args.file.name)
    for place in added.unknown:
        found.refuse("the id was never drawn", found.places[place])
    print(
        f"{added.new} labels read from {args.file}, {added.changed} changed, {added.known} known already, "
        f"{found.empty} responses without a grade."
    )
    print(printable(_missing_in_words(queue)))
    if found.wrong:
        kept = added.new + added.changed + added.known
        print(printable(wrong_in_words(args.file, found.wrong, kept)))
        return SOME_ROWS_WRONG
    return 0


def _status(args: argparse.Namespace) -> int:
    from trl_rsa.audits.combine import agreement
    from trl_rsa.audits.queue import AuditQueue, folders_of

    several = folders_of(args.run)
    for name, folder in several.items():
        if args.constraint not in (None, name):
            continue
        queue = AuditQueue.open(folder)
        grades = queue.grades()
        of_certify = queue.spent("certify")
        print(
            f"{name}: {queue.spent() - of_certify} of at most {queue.budget} labels, {of_certify} for the certificate"
        )
        for draw in queue.draws():
            rated = sum(request["id"] in grades for request in draw["requests"])
            what = f"observation {draw['observation']}, {draw['split']}, draw {draw['round']}"
            print(f"  {what}: {rated} of {len(draw['requests'])} responses have a label")
        counts = [sum(grade in of for of in grades.values()) for grade in range(len(queue.scale.names))]
        print("  " + ", ".join(f"{grade} {n}" for grade, n in zip(queue.scale.names, counts, strict=True)))
        found = agreement(grades)
        print(f"  {found['several']} responses with several labels, {found['disagreed']} of them disagree")
        print(f"  {_missing_in_words(queue)}")
    _folder(args, several_allowed=True)
    return 0


def _missing_in_words(queue: "AuditQueue") -> str:
    missing, grades = queue.missing(), queue.grades()
    if not missing:
        return "No label is missing. Start the run again if it has stopped."
    more = sum(request["id"] in grades for request in missing)
    seconds = f", {more} of them a second or third one" if more else ""
    return f"{len(missing)} labels are missing{seconds}."


def _folder(args: argparse.Namespace, several_allowed: bool = False) -> Path:
    from trl_rsa.audits.queue import folders_of

    several = folders_of(args.run)
    if args.constraint is None and (len(several) == 1 or several_allowed):
        return next(iter(several.values()))
    if args.constraint not in several:
        said = "left out --constraint" if args.constraint is None else f"set constraint to {args.constraint!r}"
        raise ValueError(f"You {said}, but the audits of {args.run} are {', '.join(several)}. Set one of these.")
    return several[args.constraint]
