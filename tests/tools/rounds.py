"""How long tests go that could go on for ever, and the seed that makes a run the same again.

`make test` runs a fixed number of rounds from a fixed seed. SLUICE_SOAK_SECONDS lets each such test
go on for so long, from a new seed; SLUICE_SEED names a seed.
"""

import os
import random
import time

SOAK_SECONDS = float(os.environ.get("SLUICE_SOAK_SECONDS", 0))


def seed(what):
    """The run's seed, printed when it is not the usual one."""
    given = os.environ.get("SLUICE_SEED")
    if not given and SOAK_SECONDS:
        given = str(random.SystemRandom().randrange(10**9))
    if given:
        print(f"{what}: SLUICE_SEED={given}", flush=True)
    return given or "1"


def of(what, usual, soak_least=0):
    """(round number, its random.Random), so that a round can be had alone: SLUICE_ROUND.
    `soak_least`: so many also where the time is over before."""
    first, base = int(os.environ.get("SLUICE_ROUND", 0)), seed(what)
    deadline = time.monotonic() + SOAK_SECONDS
    number, least = first, soak_least if SOAK_SECONDS else usual
    while number < first + least or time.monotonic() < deadline:
        yield number, random.Random(f"{what} {base} {number}")
        if "SLUICE_ROUND" in os.environ:
            return
        number += 1


def duration(usual):
    """Seconds that a test which counts time should take."""
    return SOAK_SECONDS or usual
