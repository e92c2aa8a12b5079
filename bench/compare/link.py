"""The shaped link (bench/link.c) in front of a registry."""

import collections
import contextlib
import http.client
import os
import subprocess
import time

from tools import workplace

PROGRAM = os.path.join(workplace.PROJECT, "build", "bench", "link")

Counters = collections.namedtuple("Counters", "connections up down")
Speed = collections.namedtuple("Speed", "rtt_ms mbit")


class Link:
    def __init__(self, port, speed):
        self.process = subprocess.Popen(
            [PROGRAM, "--to", str(port), "--rtt-us", str(int(speed.rtt_ms * 1000)),
             "--mbit", str(speed.mbit)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def counters(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Counters(*map(int, self.process.stdout.readline().split()))

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def check(registry, path, speed):
    """What the link really is: of a blob at `path`, bytes in a second; of a small request on an
    open connection, seconds."""
    with contextlib.closing(Link(registry.port, speed)) as link:
        connection = http.client.HTTPConnection("127.0.0.1", link.port, timeout=60)
        with contextlib.closing(connection):
            times = []
            for _ in range(11):
                started = time.monotonic()
                connection.request("GET", "/v2/")
                connection.getresponse().read()
                times.append(time.monotonic() - started)
            started = time.monotonic()
            connection.request("GET", path)
            answer = connection.getresponse()
            count = 0
            while block := answer.read(1 << 20):
                count += len(block)
            seconds = time.monotonic() - started - speed.rtt_ms / 1000
    return {"small_request_seconds": sorted(times[1:])[5], "bytes_a_second": count / seconds}
