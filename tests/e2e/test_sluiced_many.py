"""Many containers of many lazy images at once, over a slow link."""

import concurrent.futures
import os
import sys

from tools import container_images, rounds, workplace
from tools.container_images import PROGRAM, TREE
from tools.sluiced_node import SluicedNode

sys.path.append(os.path.join(workplace.PROJECT, "bench"))
from compare.link import Link, Speed  # noqa: E402 pylint: disable=wrong-import-position

_LONG = bool(rounds.SOAK_SECONDS)
_IMAGES, _CONTAINERS = (10, 100) if _LONG else (4, 20)
_SPEED = Speed(rtt_ms=20, mbit=200)
# Of both processes together: four times what they are meant to take.
_MOST_BYTES = 512 << 20


def peak_bytes(pid):
    """Of a process's memory."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        line, = (line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


class ManyContainers(SluicedNode):
    """Each of them pulls its image first, as kubelet does."""

    configuration = "[lazy]\nfill = \"off\"\n"

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.push_family(_IMAGES)
        cls.link = Link(cls.registry.port, _SPEED)
        cls.addClassCleanup(cls.link.close)
        super().start_daemons(proxies)
        cls.containerd.allow_plain(f"127.0.0.1:{cls.link.port}")

    def start(self, pod, number):
        reference = f"127.0.0.1:{self.link.port}/family-{number % _IMAGES}:latest"
        self.cri.pull(reference)
        return self.cri.start(pod, f"container-{number}", reference, PROGRAM, "hold", TREE)

    def is_ready(self, container, number):
        """Once it has read all, which must be right."""
        text, wanted = self.cri.output(container), container_images.family_sums(number % _IMAGES)
        if len(text) < len(wanted):
            self.assertEqual(0, self.cri.status(container).finished_at, text)
            return False
        self.assertEqual(wanted, text)
        return True

    def test_at_once(self):
        pod = self.pod()
        with concurrent.futures.ThreadPoolExecutor(_CONTAINERS) as pool:
            containers = list(pool.map(lambda number: self.start(pod, number),
                                       range(_CONTAINERS)))
        for number, container in enumerate(containers):
            self.wait_until(lambda c=container, n=number: self.is_ready(c, n),
                            f"container {number} has read its image", seconds=120)
        self.assertEqual(_IMAGES, len(self.lazy_mounts()))
        peaks = [peak_bytes(pid) for pid in (self.sluiced.process.pid, self.sluiced.server())]
        print("peak memory with {} containers of {} images: sluiced {:.0f} MB, server {:.0f} MB"
              .format(_CONTAINERS, _IMAGES, *(peak / 1e6 for peak in peaks)))
        self.assertLess(sum(peaks), _MOST_BYTES)
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()
