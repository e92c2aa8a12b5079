"""Which index is believed: pinned by the command or by the image's manifest, or found beside it."""

import json

from tools import images
from tools.layout import MANIFEST
from tools.testcase import EndToEnd

NAME = "vnd.sluice.index.digest"


class Trust(EndToEnd):
    """One image, with an index beside it."""

    def setUp(self):
        self.repository = self._testMethodName.replace("_", "-")
        image = images.small()
        self.found = self.push(image.layout, image.tag, self.repository)
        self.named = self.reference(self.repository, "named")
        self.index = json.loads(self.sluice("index", self.found, "--json").stdout)["index_digest"]

    def annotate(self, *options):
        return json.loads(self.sluice("index", self.found, "--annotate", "named", "--json",
                                      *options).stdout)

    def test_found_is_less_than_pinned(self):
        point = self.make_directory("mnt")
        self.fails("mount", self.found, point, "--cache", self.cache, "--trust", "pinned",
                   says=("pinned", self.index, "--index"))
        # Also when the node knows the index from an earlier mount.
        self.assertEqual(self.status(self.mount(self.found))["trust"], "referrer")
        self.fails("mount", self.found, point, "--cache", self.cache, "--trust", "pinned",
                   says=("pinned",))
        pinned = self.mount(self.found, "--trust", "pinned", "--index", self.index, name="pinned")
        self.assertEqual(self.status(pinned)["trust"], "pinned")
        # A pinned mount leaves nothing behind that raises the trust of the next one.
        self.fails("mount", self.found, point, "--cache", self.cache, "--trust", "pinned",
                   says=("pinned",))

    def test_named_by_the_manifest(self):
        told = self.annotate()
        self.assertTrue(told["already_indexed"])
        self.assertEqual(told["index_digest"], self.index)
        copy = json.loads(self.client().manifest(self.repository, "named")[0])
        original = json.loads(self.client().manifest(self.repository, "latest")[0])
        self.assertEqual(copy.pop("annotations")[NAME], self.index)
        original.pop("annotations", None)
        self.assertEqual(copy, original)

        point = self.mount(self.named, "--trust", "pinned")
        status = self.status(point)
        self.assertEqual((status["trust"], status["index_digest"]), ("pinned", self.index))
        self.assertEqual(status["manifest_digest"], told["annotated_digest"])
        inspected = json.loads(self.sluice("inspect", self.named, "--json").stdout)
        self.assertEqual((inspected["trust"], inspected["index_digest"]), ("pinned", self.index))
        self.assertEqual(json.loads(self.sluice("inspect", self.found, "--json").stdout)["trust"],
                         "referrer")
        self.unmount(point)
        # What the node remembers is still pinned, for the manifest says so.
        again = self.mount(self.named, "--trust", "pinned", name="again")
        self.assertEqual(self.status(again)["trust"], "pinned")

    def test_named_image_is_indexed_already(self):
        self.annotate()
        told = json.loads(self.sluice("index", self.named, "--json").stdout)
        self.assertEqual((told["already_indexed"], told["index_digest"]), (True, self.index))

    def test_what_the_manifest_names_is_the_only_one(self):
        """Whoever attaches another index later changes nothing; one of another image is refused."""
        self.annotate()
        other = self.push(images.debian().layout, images.debian().tag, self.repository, "other")
        foreign = json.loads(self.sluice("index", other, "--json").stdout)["index_digest"]
        client = self.client()
        manifest = json.loads(client.manifest(self.repository, "named")[0])
        manifest["annotations"][NAME] = foreign
        client.push_manifest(self.repository, "wrong", MANIFEST, json.dumps(manifest).encode())
        point = self.make_directory("mnt")
        for tag, index, says in (("wrong", foreign, "another image"),
                                 ("missing", "sha256:" + "0" * 64, "0000"),
                                 ("odd", "latest", "digest")):
            with self.subTest(tag):
                manifest["annotations"][NAME] = index
                client.push_manifest(self.repository, tag, MANIFEST, json.dumps(manifest).encode())
                self.fails("mount", self.reference(self.repository, tag), point, "--cache",
                           self.cache, says=(says,))

    def test_usage(self):
        self.fails("mount", self.found, "/mnt", "--trust", "signed", says=("signed",), code=2)
        self.fails("index", self.found, "--annotate", "a/b", says=("tag",), code=2)
        self.fails("index", self.found, "--annotate", "a", "--output", "x", says=("output",),
                   code=2)
