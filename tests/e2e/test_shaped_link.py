"""The link that the comparison with peers runs over is as slow as it is told to be, and no slower
for many than for one. What takes longer on a busy machine is not asserted."""

import contextlib
import http.server
import os
import random
import sys
import threading
import time
import unittest
import urllib.request

from tools import workplace

sys.path.append(os.path.join(workplace.PROJECT, "bench"))
from compare.link import Link, Speed  # noqa: E402 pylint: disable=wrong-import-position


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_):  # pylint: disable=arguments-differ
        """Nobody reads it."""


class ShapedLink(unittest.TestCase):
    def setUp(self):
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.addCleanup(self.server.server_close)
        self.server.body = random.Random(1).randbytes(2_000_000)
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.server.shutdown)

    def link(self, rtt_ms, mbit):
        link = Link(self.server.server_address[1], Speed(rtt_ms, mbit))
        self.addCleanup(link.close)
        return link

    @staticmethod
    def get(link):
        """(seconds, body)"""
        started = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{link.port}/", timeout=60) as answer:
            body = answer.read()
        return time.monotonic() - started, body

    def test_round_trips(self):
        self.server.body = b"small"
        seconds, body = self.get(self.link(200, 1000))
        self.assertEqual(body, b"small")
        self.assertGreaterEqual(seconds, 0.4, "one to connect, one to ask")

    def test_bandwidth_and_bytes(self):
        link = self.link(0, 100)
        seconds, body = self.get(link)
        self.assertEqual(body, self.server.body)
        # What the receiver's buffers hold is not under way any more.
        self.assertGreaterEqual(seconds, 0.15, "2 MB at 12.5 MB/s")
        counters = link.counters()
        self.assertEqual(counters.connections, 1)
        self.assertGreater(counters.up, 0)
        self.assertGreater(counters.down, len(body))
        self.assertLess(counters.down, len(body) + 1000)

    def test_bandwidth_is_shared_and_delay_is_not(self):
        link = self.link(500, 1000)
        self.server.body = b"small"
        results = []
        with contextlib.ExitStack() as stack:
            started = time.monotonic()
            for _ in range(40):
                thread = threading.Thread(target=lambda: results.append(self.get(link)))
                thread.start()
                stack.callback(thread.join)
        self.assertEqual([body for _, body in results], [b"small"] * 40)
        self.assertLess(time.monotonic() - started, 40, "40 times a second, one after another")

        link = self.link(0, 100)
        self.server.body = bytes(500_000)
        started = time.monotonic()
        threads = [threading.Thread(target=self.get, args=(link,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertGreaterEqual(time.monotonic() - started, 0.15, "2 MB together at 12.5 MB/s")

    def test_the_end_of_either_side_arrives(self):
        link = self.link(1, 1000)
        self.server.body = b"first"
        self.get(link)
        self.server.body = b""
        self.assertEqual(self.get(link)[1], b"")


if __name__ == "__main__":
    unittest.main()
