"""What an operator sees of each image: status, metrics, log."""

import os
import re
import socket
import threading
import urllib.request

import yaml

from tools import workplace
from tools.container_images import PROGRAM, TREE
from tools.sluiced_node import SluicedNode
from tools.testcase import fields_of


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def text_of(*path):
    with open(os.path.join(workplace.PROJECT, *path), encoding="utf-8") as file:
        return file.read()


def manual(name):
    return text_of("docs", "man", name).replace("\\-", "-").replace("\\\n", "")


class Status(SluicedNode):
    """Two lazy images that share layers, and one without an index."""

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.push_family(2)
        cls.metrics_address = f"127.0.0.1:{free_port()}"
        cls.configuration = ('[lazy]\nfill = "off"\nread_timeout = "4s"\n'
                             f'[metrics]\naddress = "{cls.metrics_address}"\n')
        super().start_daemons(proxies)

    def images(self):
        """Two lazy images by name, of which the first is read."""
        every = {image["name"]: image for image in self.sluiced_status()["images"]}
        return [every[self.reference(f"family-{number}")] for number in range(2)]

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics") as answer:
            return answer.read().decode()

    def metric(self, name, image):
        labels = re.escape(f'image="{image["name"]}",digest="{image["reference"].split("@")[1]}"')
        return float(re.search(rf"(?m)^{name}\{{{labels}\}} (\S+)$", self.metrics())[1])

    def check_read(self):
        """What was read is the first image's; what is here of shared layers is of both."""
        read, other = self.images()
        self.assertGreater(read["bytes_served"], 0)
        self.assertGreater(read["reads_hit"] + read["reads_missed"], 0)
        self.assertEqual((0, 0), (other["bytes_served"], other["reads_missed"]))
        self.assertGreater(read["layers_complete"], 0)
        self.assertEqual(read["bytes_shared"], other["bytes_shared"])
        self.assertGreater(other["bytes_shared"], 0)
        self.assertLess(other["bytes_present"], other["stream_bytes"])
        self.assertEqual(read["bytes_served"],
                         self.metric("sluice_image_served_bytes_total", read))
        self.assertEqual(other["bytes_present"], self.metric("sluice_image_present_bytes", other))

    def check_stuck(self, container):
        """While the registry is away it is told who waits, and then who got an error, and why."""
        seen = threading.Event()

        def read():
            while not seen.is_set():
                self.cri.execute(container, PROGRAM, "show", f"{TREE}/own-0/00")
        reading = threading.Thread(target=read)
        reading.start()
        try:
            self.wait_until(lambda: self.images()[0]["oldest_wait_ms"] > 500, "reads wait")
            shown = self.sluice("status").stdout
            self.assertRegex(shown, r"now +\d+ reads? waiting, the oldest for \d")
            self.assertGreater(self.metric("sluice_image_oldest_wait_seconds", self.images()[0]), 0)
            self.assertEqual(0, self.images()[1]["reads_waiting"])
        finally:
            seen.set()
            reading.join()
        read, other = self.images()
        self.assertGreater(read["errors"], 0)
        self.assertIn(self.registry.name, read["last_error"])
        self.assertLess(read["last_error_seconds_ago"], 60)
        self.assertEqual((0, None), (other["errors"], other["last_error"]))
        self.assertIn(read["last_error"], self.sluice("status").stdout)

    def check_fields(self):
        """Each is in the manual."""
        words = set(re.findall(r"\w+", manual("sluice-status.1")))
        fields = {word for field in fields_of(self.sluiced_status()) for word in field.split()}
        self.assertEqual(set(), fields - words)

    def check_metrics(self):
        """Each is in the manual, and alerts are about metrics that there are."""
        text = self.metrics()
        told = set(re.findall(r"(?m)^# TYPE (\w+) ", text))
        page = set(re.findall(r"\w+", manual("sluiced.8")))
        self.assertEqual(set(), told - page)
        self.assertEqual(set(), {name for name in page if name.startswith("sluice_")} - told)
        rules = yaml.safe_load(text_of("packaging", "prometheus", "sluice.rules.yaml"))
        expressions = " ".join(rule["expr"] for rule in rules["groups"][0]["rules"])
        self.assertEqual(set(), set(re.findall(r"sluice_\w+", expressions)) - told)
        for decisions in re.findall(r'decision=~"([^"]*)"', expressions):
            for decision in decisions.split("|"):
                self.assertIn(f'sluice_decisions_total{{decision="{decision}"}}', text)

    def test_images(self):
        lazy, other, ordinary = (self.reference(name) for name in
                                 ("family-0", "family-1", "chain-2"))
        for reference in (lazy, other, ordinary):
            self.cri.pull(reference)
        container = self.cri.start(self.pod(), "lives", lazy, PROGRAM, "pause")
        self.cri.execute(container, PROGRAM, "sum", os.path.join(TREE, "all"))
        self.check_read()
        self.registry.stop()
        try:
            self.check_stuck(container)
        finally:
            self.registry.start()
        self.check_fields()
        self.check_metrics()
        log = self.sluiced.log()
        self.assertRegex(log, r"(?m)^sluiced-server: error: layer sha256:\w+\.\.\.: ")
        for reference, decision in ((lazy, "is lazy"), (other, "is lazy"),
                                    (ordinary, "is pulled ordinarily")):
            lines = re.findall(rf"(?m)^.*{re.escape(reference)} {decision} "
                               r"\(decided in \d+ ms\): .+$", log)
            self.assertEqual(1, len(lines), "one decision is one line")
        self.wait_until(lambda: self.cri.execute(container, PROGRAM, "sum", TREE)[0] == 0,
                        "the image can be read again")
        self.cri.remove_all_pods()
        self.remove_images()
        self.assert_nothing_left()
