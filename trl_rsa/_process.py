"""A process of ours: a command, or a worker of a launch. Beside its work it spends as little as can be.

torch, transformers and TRL make a million objects that live as long as the process does. Python's garbage collector
would look through them again and again while they are made, and several times more when the process ends: together a
third of the CPU time of a dry run. A program that uses the package is not touched: only [`run`] begins this.
"""

import atexit
import gc
import os
import sys
from collections.abc import Callable
from typing import NoReturn


_waiting = False  # nothing is collected until the imports are there
_ended: list[int] = []  # the exit status, once there is one


@atexit.register
def _leave() -> None:
    # This module is imported before all that registers a handler, so this one is called last: threads have ended and
    # the others have run by now. What is left is taking the interpreter apart. After an exception, and in a program
    # that is not ours, nothing is in `_ended`, and Python does it as always.
    if _ended:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed from the beginning
                stream.flush()
        os._exit(_ended[0])


def run(main: Callable[[], int]) -> NoReturn:
    """Runs `main` as the whole of this process, and ends with the exit status that it returns.

    `main` calls [`imported`] as soon as it has imported what it needs. An exception ends the process as always.
    """
    global _waiting
    gc.disable()
    _waiting = True
    _ended.append(main())
    sys.exit(_ended[0])


def imported() -> None:
    """What has been imported stays, and is passed over from now on; garbage is collected as always. Outside of
    [`run`], and when it is called again, nothing happens."""
    global _waiting
    if _waiting:
        _waiting = False
        gc.freeze()
        gc.enable()
