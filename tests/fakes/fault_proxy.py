"""A proxy before a real registry in which things go wrong at random, the same way for each seed.

What happens to a request follows from the seed, the request and how often it was made, not from
the order in which threads come by.
"""

import collections
import hashlib
import random
import re
import socket
import struct
import threading
import time

from tools.counting_proxy import CountingProxy, ProxyHandler

# Weights. A stall costs a client its patience, so it is asked for by name.
FAULTS = {"reset": 2, "reset-in-body": 2, "truncated": 2, "short": 1, "long": 1, "flipped": 3,
          "other-range": 1, "unnamed-range": 1, "misnamed-range": 1, "whole-blob": 1, "500": 1,
          "502": 1, "503": 2, "429": 2, "403": 1, "404": 1, "416": 1, "no-http": 1, "drip": 2,
          "redirect-loop": 1, "redirect-nowhere": 1, "unauthorized": 2}


class FaultProxy(CountingProxy):
    """`rate`: how many of the requests that `concerns` matches go wrong, `most`: how many do
    altogether; both may change at any time."""

    def __init__(self, upstream, seed, rate=0.3, faults=None, concerns=r"^GET .*/blobs/"):
        self.seed = seed
        self.rate = rate
        self.most = float("inf")
        self.faults = dict(faults or FAULTS)
        self.concerns = re.compile(concerns)
        self.counts = collections.Counter()  # of faults, by name
        self.over = threading.Event()
        self._seen = collections.Counter()
        super().__init__(upstream, _Handler)

    def close(self):
        self.over.set()
        super().close()

    def choose(self, method, path, byte_range):
        """(name of a fault or None, its random.Random)"""
        request = f"{method} {path} {byte_range}"
        with self._lock:
            self._seen[request] += 1
            text = f"{self.seed} {self._seen[request]} {request}"
        generator = random.Random(hashlib.sha256(text.encode()).digest())
        if not self.concerns.search(request) or generator.random() >= self.rate:
            return None, generator
        fault = generator.choices(list(self.faults), list(self.faults.values()))[0]
        with self._lock:
            if sum(self.counts.values()) >= self.most:
                return None, generator
            self.counts[fault] += 1
        return fault, generator


class _Handler(ProxyHandler):
    fault = None
    generator = None

    def _serve(self):
        proxy = self.server.proxy
        self.fault, self.generator = proxy.choose(self.command, self.path.split("?")[0],
                                                  self.headers.get("Range"))
        if self.fault in ("reset", "no-http", "redirect-loop", "redirect-nowhere") or (
                self.fault or "").isdigit():
            self._body()
            getattr(self, "_" + self.fault.replace("-", "_"), self._refuse)()
            return
        if self.fault == "whole-blob":
            del self.headers["Range"]
        elif self.fault == "unauthorized":
            # Where anonymous clients may read, the registry's answer is the right one.
            del self.headers["Authorization"]
        elif self.fault == "other-range" and self.headers.get("Range"):
            first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
            by = self.generator.choice((-1, 1, 512, 1 << 20))
            if first + by >= 0:
                del self.headers["Range"]
                self.headers["Range"] = f"bytes={first + by}-{last + by}"
        super()._serve()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    # ---- instead of an answer ----

    def _reset(self):
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _no_http(self):
        self.close_connection = True
        self.wfile.write(self.generator.randbytes(self.generator.randint(0, 5000)))

    def _refuse(self):
        self.send_response_only(int(self.fault))
        if self.fault in ("429", "503"):
            self.send_header("Retry-After", self.generator.choice(("0", "1", "soon", "")))
        body = b'{"errors": [{"code": "UNKNOWN", "message": "out of luck"}]}'
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _redirect_to(self, place):
        self.send_response_only(307)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect_loop(self):
        self._redirect_to(self.path.split("?")[0] + f"?turn={self.generator.random()}")

    def _redirect_nowhere(self):
        self._redirect_to(self.generator.choice(
            ("http://127.0.0.1:1/x", "ftp://127.0.0.1/", "http://", "", "http://127.0.0.1:99999/x",
             "file:///etc/passwd", "http://no-such-host.invalid/x")))

    # ---- a damaged answer ----

    def reply(self, status, headers, data):
        damage = getattr(self, "_" + (self.fault or "").replace("-", "_"), None)
        if damage and data and status in (200, 206):
            status, headers, data = damage(status, headers, data) or (None, None, None)
        if status:
            super().reply(status, headers, data)

    def _replaced(self, headers, name, value):
        kept = [(key, old) for key, old in headers if key.lower() != name.lower()]
        return kept + ([(name, value)] if value is not None else [])

    def _flipped(self, status, headers, data):
        data = bytearray(data)
        data[self.generator.randrange(len(data))] ^= 1 << self.generator.randrange(8)
        return status, headers, bytes(data)

    def _short(self, status, headers, data):
        data = data[:self.generator.randrange(len(data))]
        return status, self._replaced(headers, "Content-Length", str(len(data))), data

    def _long(self, status, headers, data):
        data += self.generator.randbytes(self.generator.choice((1, 100, 1 << 20)))
        return status, self._replaced(headers, "Content-Length", str(len(data))), data

    def _unnamed_range(self, status, headers, data):
        return status, self._replaced(headers, "Content-Range", None), data

    def _misnamed_range(self, status, headers, data):
        value = self.generator.choice(
            (f"bytes 0-{len(data) - 1}/{len(data)}", "bytes 5-1/9", "bytes */1", "bytes", "",
             "bytes 18446744073709551615-18446744073709551616/1", f"bytes 1-{len(data)}/*"))
        return status, self._replaced(headers, "Content-Range", value), data

    def _truncated(self, status, headers, data):
        """The connection ends where more was announced."""
        self.close_connection = True
        return status, headers, data[:self.generator.randrange(len(data))]

    def _reset_in_body(self, status, headers, data):
        super().reply(status, headers, data[:self.generator.randrange(len(data))])
        self.wfile.flush()
        time.sleep(0.01)
        self._reset()

    def _drip(self, status, headers, data):
        super().reply(status, headers, b"")
        step = len(data) // 20 + 1
        for start in range(0, len(data), step):
            self.wfile.write(data[start:start + step])
            self.server.proxy.over.wait(0.02)

    def _stall(self, status, headers, data):
        """Silence in the middle, until the client gives up."""
        super().reply(status, headers, data[:self.generator.randrange(len(data))])
        self.wfile.flush()
        self.server.proxy.over.wait(120)
        self.close_connection = True
