"""What runs in the images: it says when it is ready, and prints what only a right run knows."""

import collections
import hashlib
import subprocess
import time

from tools import science_image

Workload = collections.namedtuple("Workload", "image title program answer")

_PYTHON = """
print("ready", flush=True)
import hashlib
print(hashlib.sha256(b"sluice").hexdigest()[:16])
"""

_PYTHON_ANSWER = hashlib.sha256(b"sluice").hexdigest()[:16]

ALL = {each.image: each for each in (
    Workload("python", "python3, `print`", _PYTHON, _PYTHON_ANSWER),
    Workload("torch", "`import torch`", science_image.PROGRAM, science_image.ANSWER),
    Workload("cuda", "`import torch` beside CUDA", science_image.PROGRAM, science_image.ANSWER),
)}


def command(workload):
    return ["/usr/bin/python3", "-c", workload.program]


def run(workload, arguments, group, at_first=lambda: None):
    """Runs `arguments`, which run the workload somewhere, and calls `at_first` when the first
    output is there: (seconds to the first output, seconds)."""
    started = time.monotonic()
    with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, bufsize=0, preexec_fn=group.join) as process:
        first = process.stdout.read(1)
        ready = time.monotonic() - started
        at_first()
        output, errors = process.communicate()
    total = time.monotonic() - started
    said = (first + output).decode(errors="replace").split()
    if process.returncode or said != ["ready", workload.answer]:
        raise RuntimeError(f"{workload.image}: exit code {process.returncode}, said {said}: "
                           + errors.decode(errors="replace")[-2000:])
    return ready, total
