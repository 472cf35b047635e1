"""Run a command once no other process holds the same lock: ``python alone.py LOCK COMMAND ...``.

The lock is held by the command and all that it starts, and ends with the last of them, however it
ends. The file stays: it is empty, and says nothing.
"""

import fcntl
import os
import sys


def main(lock: str, *command: str) -> None:
    """Wait for the lock, saying so, then become the command."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another call of make holds {lock}: waiting until it ends", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.set_inheritable(descriptor, True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
