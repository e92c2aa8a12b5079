"""Servers that crash or fail while they open images, and what that costs the others."""

import os
import re
import signal

from e2e.test_image_node import ImageNodeTest
from tools.container_images import PROGRAM, TREE, family_sums
from tools.sluiced_node import SluicedNode
from tools.testcase import suspend

class Guard(ImageNodeTest):
    """Faults of servers are those of node_driver.c."""

    def is_served(self):
        status = self.node.status()
        return status["server"] and all(image["state"] == "open" for image in status["images"])

    def test_image_that_crashes_servers_is_given_up(self):
        first = self.open(1, "first")
        device = os.stat(first).st_dev
        self.node.ask_for_faults("crash", "second", 5)
        answer = self.node.open(2, self.references["second"], self.point("2"))
        self.assertIn("crashed 3 times", answer["error"])
        self.assertEqual(4, self.node.status()["servers_started"])
        self.assertEqual(("failed", answer["error"]),
                         tuple(self.node.image(2)[field] for field in ("state", "reason")))
        # Nor is it tried again and again.
        self.assertEqual(answer, self.node.open(2, self.references["second"], self.point("2")))
        self.assertEqual(2, len(self.node.faults_left()))
        self.wait_until(lambda: self.node.image(1)["state"] == "open", "the other is served")
        self.shows(first, self.tars["first"])
        self.assertEqual(device, os.stat(first).st_dev)
        self.shows(self.open(3, "first"), self.tars["first"])

    def test_closed_it_may_be_tried_again(self):
        self.node.ask_for_faults("crash", "second", 3)
        answer = self.node.open(2, self.references["second"], self.point("2"))
        self.assertIn("crashed 3 times", answer["error"])
        self.node.close(2)
        self.assertEqual([], self.node.status()["images"])
        self.shows(self.open(2, "second"), self.tars["second"])

    def test_those_beside_it_are_opened(self):
        self.node.ask_for_faults("crash", "second", 9)
        tags = {number: self.node.send_open(number, self.references["first"],
                                            self.point(str(number))) for number in range(1, 9)}
        bad = self.node.send_open(9, self.references["second"], self.point("9"))
        self.assertIn("crashed 3 times", self.node.answer(bad)["error"])
        for number, tag in tags.items():
            self.assertNotIn("error", self.node.answer(tag))
            self.assertTrue(os.path.ismount(self.point(str(number))))

    def resume(self, kind, count):
        """Servers go on with two mounts, and have the faults when it comes to the first."""
        points = self.open(1, "first", front="fuse"), self.open(2, "second")
        self.node.ask_for_faults(kind, "first", count)
        self.node.kill_server()
        self.wait_until(lambda: not self.node.faults_left() and self.is_served(), "all is served")
        self.shows(points[0], self.tars["first"])
        self.shows(points[1], self.tars["second"])
        return re.findall("'(.*)' cannot be served any more as it was mounted",
                          "\n".join(self.node.log))

    def test_servers_that_crash_while_they_go_on(self):
        self.assertEqual([], self.resume("crash", 5))

    def test_servers_that_fail_to_go_on(self):
        self.assertEqual([], self.resume("fail", 2))

    def test_one_that_cannot_be_gone_on_with_is_mounted_anew(self):
        self.assertEqual([self.point("1")], self.resume("fail", 3))

    def test_one_that_crashes_all_servers_is_given_up(self):
        points = self.open(1, "first"), self.open(2, "second")
        device = os.stat(points[1]).st_dev
        self.node.ask_for_faults("crash", "first", 20)
        self.node.kill_server()
        self.wait_until(lambda: self.node.image(1)["state"] == "failed", "it is given up")
        self.wait_until(lambda: self.node.image(2)["state"] == "open", "the other is served")
        self.assertEqual(10, len(self.node.faults_left()))
        self.shows(points[1], self.tars["second"])
        self.assertEqual(device, os.stat(points[1]).st_dev)

    def test_no_signal_is_blocked(self):
        with open(f"/proc/{self.node.server()}/status", encoding="ascii") as file:
            self.assertRegex(file.read(), r"\nSigBlk:\s+0+\n")


class Watchdog(ImageNodeTest):
    """Servers that hang."""

    def setUp(self):
        super().setUp()
        self.node.stop()
        self.node = self.start_node(watchdog=1000)

    def read(self, point):
        with open(os.path.join(point, "base", "text"), "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return file.read()

    def test_server_that_hangs_is_followed_by_another(self):
        points = self.open(1, "second", front="fuse"), self.open(2, "second")
        texts = [self.read(point) for point in points]
        for hangs, number in enumerate((signal.SIGSTOP, signal.SIGUSR1, signal.SIGUSR2), 1):
            with self.subTest(number):
                os.kill(self.node.server(), number)
                self.assertEqual(texts, [self.read(point) for point in points])
                self.wait_until(lambda count=hangs: self.is_served_after(count), "all is served")
        self.assertNotIn("gets errors", "\n".join(self.node.log))

    def is_served_after(self, hangs):
        status = self.node.status()
        return (status["server"] and status["servers_hung"] == hangs and
                status["servers_started"] == hangs + 1 and
                all(image["state"] == "open" for image in status["images"]))


class HangingServer(SluicedNode):
    """That of sluiced, with a container that reads."""

    configuration = '[lazy]\nfill = "off"\n[server]\nwatchdog = "5s"\n'

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.push_family(1)
        super().start_daemons(proxies)

    def test_it_is_told_and_nobody_notices(self):
        reference = self.reference("family-0")
        self.cri.pull(reference)
        container = self.cri.start(self.pod(), "reads", reference, PROGRAM, "pause")
        suspend(self.sluiced.server())
        self.assertIn("does not answer", str(self.sluiced_status()["server"]["reason"]))
        self.assertEqual((0, family_sums(0)), self.cri.execute(container, PROGRAM, "sum", TREE))
        server = self.sluiced_status()["server"]
        self.assertEqual((1, 2), (server["hangs"], server["starts"]))
        self.assertIn("it hangs, and is killed", self.sluiced.log())
        self.cri.remove_all_pods()
        self.remove_images()
        self.assert_nothing_left()
