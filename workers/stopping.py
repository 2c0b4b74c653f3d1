"""Interrupts that wait for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


def whole(steps: Iterable[T]) -> Iterator[T]:
    """Hands steps on; an interrupt (SIGINT) ends them after the step that is being taken.

    A second interrupt stops at once, in mid-step. They come to the main thread alone: in another
    one steps are only handed on.

    Raises:
        KeyboardInterrupt: after the step in which the interrupt came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield from steps
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        for step in steps:
            yield step
            if asked:
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is behind an error.

    Compiled code that calls Python makes a SystemError of whatever is raised in there.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
