"""Changes that a process makes to a memory until it is killed, and goes on with in its next life.

Run as a program it is the parent of the lives: it has all compiled already and forks one a line of
its input, `START number`. A life says by lines what it did, the last words before it is killed:

    PID pid              from the parent, as is DEAD
    OPEN digest          the memory as it was found, once the change `number` was made whole
    DONE number digest   a change was acknowledged, with that reply
    AGAIN number digest  one of before was sent again, and got that reply
    DEAD status
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path

import memstore
from memstore import MemoryConfig
from tests.faults.changes import Script, change, config, state

AGAIN = 20
"""So many of the last changes are sent again in each life."""


def live(folder: Path, how: MemoryConfig, script: Script, number: int) -> None:
    """One life.  script: at the first change to send again.  number: of the change that was in
    flight when the last life ended."""
    with memstore.open(folder, fsync="always") as store:
        memory = store.memory("m") if "m" in store.list() else store.create("m", how)
        beside = number % 2 == 1
        if beside:
            threading.Thread(target=_always, args=(store,), daemon=True).start()
        while script.number < number:
            _say("AGAIN", script.number, change(memory, script))
        reply = change(memory, script)
        _say("OPEN", state(memory))
        _say("DONE", number, reply)
        while True:
            _say("DONE", script.number, change(memory, script))
            if script.number % 16 == 0 and not beside:
                store.checkpoint()


def _always(store: memstore.Store) -> None:
    while True:
        store.checkpoint()


def _say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main(folder: str, *how: str) -> None:
    dtype, updates, optimizer, shards = how
    given = config(dtype, updates, optimizer, int(shards))
    with memstore.open(Path(folder) / "warm") as store:
        memory, script = store.create("m", given), Script()
        for _ in range(100):
            change(memory, script)
        state(memory)
    script = Script()
    for line in sys.stdin:
        number = int(line.split()[1])
        script.skip(max(0, number - AGAIN))
        pid = os.fork()
        if not pid:
            try:
                live(Path(folder) / "store", given, script, number)
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            os._exit(1)
        _say("PID", pid)
        _say("DEAD", os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
