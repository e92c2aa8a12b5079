"""Namespaces of its own for the whole benchmark.

It starts daemons that start daemons, and mounts for which those are responsible. In a PID and a
mount namespace all of them end with it, whatever happens, and nothing on the machine sees them.
"""

import os
import sys

_MARK = "SLUICE_BENCH_ALONE"


def be_alone():
    """Starts this program again where it is alone; returns in the second one."""
    if os.environ.get(_MARK) == str(os.getppid()):
        return
    # A shell is the first process, because it waits for those that lost their parents.
    shell = f'{_MARK}=1 "$@" & wait $!'
    os.execvp("unshare", ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child",
                          "sh", "-c", shell, "sh", sys.executable, *sys.argv])
