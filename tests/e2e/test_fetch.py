"""What is lazy leaves the node: `sluice fetch`, then what containerd does with whole images."""

import hashlib
import json
import tarfile

from tools import container_images
from tools.registry import Client
from tools.sluiced_node import SluicedNode


class Fetch(SluicedNode):
    """What needs an image whole does not find its layers, until they are fetched."""

    indexed = (3,)

    def fetch(self, reference, *options, expect=0):
        return self.sluice("fetch", "--address", self.containerd.address, *options, reference,
                           expect=expect)

    def export(self, namespace, reference, check=True):
        path = f"{self.directory}/{self._testMethodName}.tar"
        return self.containerd.ctr("-n", namespace, "images", "export", path, reference,
                                   check=check), path

    def blobs_in(self, path):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.startswith("blobs/sha256/") and member.isfile():
                    data = archive.extractfile(member).read()
                    self.assertEqual(member.name[-64:], hashlib.sha256(data).hexdigest())
                    yield "sha256:" + member.name[-64:]

    def layers(self, image):
        manifest = image.layout.json(image.layout.find(image.tag)["digest"])
        return [layer["digest"] for layer in manifest["layers"]]

    def test_fetch(self):
        image = container_images.chain()[3]
        reference = self.reference(image.tag)
        self.cri.pull(reference)
        self.assertEqual([], self.layers_in_store(image))
        done, _ = self.export("k8s.io", reference, check=False)
        self.assertNotEqual(0, done.returncode)
        self.assertIn("not found", done.stderr)
        done = self.containerd.ctr("-n", "k8s.io", "images", "convert", "--uncompress", reference,
                                   "plain", check=False)
        self.assertNotEqual(0, done.returncode)
        self.assertIn("not found", done.stderr)
        copy = f"{self.registry.name}/copy:latest"
        done = self.containerd.ctr("-n", "k8s.io", "images", "push", "--plain-http", copy,
                                   reference, check=False)
        self.assertNotEqual(0, done.returncode)

        said = json.loads(self.fetch(reference, "--namespace", "k8s.io", "--json").stdout)
        self.assertEqual(len(self.layers(image)), said["blobs_fetched"])
        self.assertEqual(1, said["blobs_present"], "the config came with the pull")
        again = self.fetch(reference, "--namespace", "k8s.io").stdout
        self.assertIn("0 blobs fetched", again)

        _, path = self.export("k8s.io", reference)
        self.assertLessEqual(set(self.layers(image)), set(self.blobs_in(path)))
        self.containerd.ctr("-n", "k8s.io", "images", "push", "--plain-http", copy, reference)
        client = Client(self.registry.name)
        self.addCleanup(client.close)
        for digest in self.layers(image):
            self.assertTrue(client.has_blob("copy", digest))
        self.containerd.ctr("-n", "k8s.io", "images", "convert", "--uncompress", reference, "plain")
        self.containerd.ctr("-n", "k8s.io", "images", "rm", "--sync", "plain")
        # They stay as long as the image, and go with it.
        self.containerd.ctr("-n", "k8s.io", "images", "tag", reference, "other")
        self.containerd.ctr("-n", "k8s.io", "images", "rm", "--sync", "other")
        self.assertEqual(list(range(len(self.layers(image)))), self.layers_in_store(image))
        self.remove_images()
        self.assertEqual([], self.layers_in_store(image))
        self.assert_nothing_left()

    def test_what_cannot_be_fetched(self):
        reference = self.reference("chain-3")
        failed = self.fetch(reference, "--namespace", "nobody", expect=1)
        self.assertIn("has no image", failed.stderr)
        self.assertEqual(1, failed.stderr.count("\n"))
        failed = self.sluice("fetch", "--address", self.directory + "/nowhere", reference, expect=1)
        self.assertEqual(1, failed.stderr.count("\n"))
        self.assertIn("containerd", failed.stderr)

    def test_a_registry_that_lies(self):
        """containerd takes no other bytes for a blob than its own."""
        image = container_images.chain()[3]
        self.cri.pull(self.reference(image.tag))
        digest = self.layers(image)[-1]
        path = self.registry.blob_file(digest)
        with open(path, "rb") as file:
            right = file.read()
        with open(path, "wb") as file:
            file.write(bytes(len(right)))
        try:
            failed = self.fetch(self.reference(image.tag), "--namespace", "k8s.io", expect=1)
        finally:
            with open(path, "wb") as file:
                file.write(right)
        self.assertIn(digest, failed.stderr)
        self.assertEqual(1, failed.stderr.count("\n"))
        self.assertNotIn(len(self.layers(image)) - 1, self.layers_in_store(image))
        self.fetch(self.reference(image.tag), "--namespace", "k8s.io")
        self.remove_images()
        self.assert_nothing_left()
