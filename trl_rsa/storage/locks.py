"""One process at a time writes to a folder, or to a file such as a ledger.

The operating system holds the lock and lets go of it when the process ends, however it ends: a lock is never stale.
Who holds it stands in the lock file, for the sentence that the second one gets.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypedDict

from trl_rsa.storage.provenance import now


try:
    import fcntl
except ImportError:  # not POSIX: no lock there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"

_held: set[tuple[str, int]] = set()  # lock file and thread


class LockFile(TypedDict):
    """What a lock file says of the process that holds it, or held it last."""

    pid: int
    host: str
    since: str
    command: str


class LockedError(ValueError):
    """Another process writes there."""


@contextmanager
def hold_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """
    Keeps other processes out of a folder while the block runs. The same thread may hold it again.

    Args:
        folder (`str` or `os.PathLike`):
            It is made if it is not there.

    Raises:
        LockedError: if another process, or another thread, holds it; the message says which, where and since when.
    """
    with _hold(Path(folder) / LOCK, Path(folder)):
        yield


@contextmanager
def hold_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """As [`hold_folder`], for one file, which need not exist. It is not touched."""
    path = Path(path)
    with _hold(path.with_name(f".{path.name}{LOCK}"), path):
        yield


@contextmanager
def _hold(lock: Path, path: Path) -> Iterator[None]:
    made = not lock.parent.exists()
    key = str(lock.absolute()), threading.get_ident()
    if key in _held:
        yield
        return
    file = _take(lock, path)
    _held.add(key)
    try:
        yield
    finally:
        _held.remove(key)
        lock.unlink(missing_ok=True)  # while it is held: see _take
        file.close()
        if made:
            with suppress(OSError):  # it is not empty, as it should be
                lock.parent.rmdir()


def _take(lock: Path, path: Path) -> IO[str]:
    for attempt in range(1000):
        # Not "w": the holder's name must not be wiped by one who does not get in.
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            opened = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the one before has removed the folder, which was empty
            if attempt > 100:  # or it is a link to nowhere
                raise
            continue
        file = os.fdopen(opened, "r+", encoding="utf-8", errors="replace")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _in_words(file.read(4096))
            file.close()
            raise LockedError(
                f"You write to {path}, but {holder} writes there, and two would spoil each other's work. Wait until "
                "it ends, end it, or use another place."
            ) from error
        except OSError:  # a file system without locks
            break
        if _is_still(lock, file):
            break
        file.close()  # the one before has removed it since it was opened: that lock is nobody's
    me: LockFile = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": now(),
        "command": Path(sys.argv[0]).name,
    }
    file.truncate(0)
    file.write(json.dumps(me))
    file.flush()
    return file


def _is_still(lock: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(lock.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _in_words(content: str) -> str:
    try:
        holder = json.loads(content)
        return f"the process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
