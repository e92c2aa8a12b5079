"""Pods and containers with sluiced as containerd's snapshotter: images with an index."""

import json

from tools.container_images import PROGRAM
from tools.node import Workloads

from e2e.test_sluiced import Restarts, SluicedNode


class LazyNode(SluicedNode):
    """chain-1 and chain-3 have an index, chain-0 and chain-2 have none."""

    indexed = False

    def setUp(self):
        super().setUp()
        if not self.indexed:
            for name in ("chain-1", "chain-3"):
                self.sluice("index", self.reference(name))
            type(self).indexed = True

    def status(self):
        done = self.sluice("status", "--json")
        return next(each for each in json.loads(done.stdout)
                    if each.get("daemon", {}).get("root") == self.sluiced.root)

    def lazy_names(self):
        return sorted(image["name"] for image in self.status()["images"])


class LazyImages(Workloads, Restarts, LazyNode):
    """The containerd of this Debian."""

    def test_lazy(self):
        reference = self.reference("chain-3")
        self.cri.pull(reference)
        self.assertEqual([reference], self.lazy_names())
        image, = self.status()["images"]
        self.assertEqual("mounted", image["state"])
        pod = self.pod()
        self.assertEqual((0, "layer 3\n"),
                         self.cri.run(pod, "shows", reference, PROGRAM, "show", "/etc/top"))
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()
        self.wait_until(lambda: not self.lazy_names(), "no image is lazy any more")

    def test_ordinary_and_why(self):
        reference = self.reference("chain-2")
        self.cri.pull(reference)
        self.assertEqual([], self.lazy_names())
        reasons = {each["name"]: each["reason"] for each in self.status()["ordinary"]}
        self.assertIn(reference, reasons)
        self.assertIn("index", reasons[reference])


class LazyImagesNewer(Workloads, Restarts, LazyNode):
    """containerd 2.x."""

    newer = True
