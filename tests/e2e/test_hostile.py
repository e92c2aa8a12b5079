"""Indexes made by somebody who can push, and means harm: refused in one line, or harmless.

The digests are right, since he can compute them as well as anybody; the content is not.
"""

import hashlib
import json
import os
import random
import resource
import subprocess

from tools import images, tree, workplace
from tools.layout import MANIFEST, Layout
from tools.testcase import EndToEnd, mounts_under, servers_under

PREFIX = "application/vnd.sluice."
ROUNDS = 40


def zstd(*options, data):
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, stdout=subprocess.PIPE,
                          check=True).stdout


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def damaged(data, generator):
    """A few bytes otherwise, mostly where the structure is."""
    data = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 8))):
        place = generator.randrange(min(len(data), generator.choice((256, 4096, len(data)))))
        data[place] = generator.choice((0, 1, 0x7f, 0x80, 0xff, data[place] ^ 1 << place % 8))
    if generator.random() < 0.1:
        del data[generator.randrange(len(data)):]
    return bytes(data) or b"\0"


class HostileIndex(EndToEnd):
    """An image with an honest index, of which others are made."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image = images.small()
        cls.truth = {node.content for node in tree.snapshot(images.unpacked(cls.image)).values()}

    def setUp(self):
        self.image_reference = self.push(self.image.layout, self.image.tag, "small")
        output = os.path.join(self.directory, self._testMethodName)
        self.sluice("index", self.image_reference, "--output", output)
        # The honest parts are there, too.
        self.sluice("index", self.image_reference)
        self.index = Layout(output)
        self.manifest = self.index.json(self.index.manifests()[0]["digest"])
        self.registry_client = self.client()

    def push_with(self, kind, content, compressed=True):
        """Puts an index into the registry in which the first part of a kind is `content`."""
        manifest = json.loads(json.dumps(self.manifest))
        part = next(part for part in manifest["layers"] if PREFIX + kind in part["mediaType"])
        blob = zstd("-1", data=content) if compressed else content
        self.registry_client.push_blob("small", digest_of(blob), blob, len(blob))
        part |= {"digest": digest_of(blob), "size": len(blob)}
        part["annotations"] |= {"vnd.sluice.content.digest": digest_of(content),
                                "vnd.sluice.content.size": str(len(content))}
        body = json.dumps(manifest, separators=(",", ":")).encode()
        self.registry_client.push_manifest("small", digest_of(body), MANIFEST, body)
        return digest_of(body)

    def content(self, kind):
        part = next(part for part in self.manifest["layers"] if PREFIX + kind in part["mediaType"])
        blob = self.index.blob(part["digest"])
        return zstd("-d", data=blob) if part["mediaType"].endswith("zstd") else blob

    def try_mount(self, index, number, **options):
        """The mount point, or None where the command has refused in a line."""
        point = self.make_directory(f"mnt-{number}")
        cache = self.make_directory(f"cache-{number}")
        done = subprocess.run([workplace.SLUICE, "mount", self.image_reference, point, "--index",
                               index, "--cache", cache], text=True, capture_output=True, timeout=60,
                              env=self.environment, check=False, **options)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        if done.returncode == 0:
            self.addCleanup(self.unmount_if_mounted, point)
            return point
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertEqual(mounts_under(point), [])
        self.refusal = done.stderr
        return None


class Hostile(HostileIndex):
    """Each round mounts an index with one damaged part, and reads all that is there."""

    def read_everything(self, point):
        """The contents found; a name or a read that fails is no content."""
        found, names = set(), 0
        for directory, folders, files in os.walk(point):
            names += len(folders) + len(files)
            self.assertLess(names, 100_000)
            for name in files:
                path = os.path.join(directory, name)
                try:
                    if os.path.isfile(path) and os.lstat(path).st_size < 64 << 20:
                        found.add(tree.content_digest(path))
                except OSError:
                    continue
        return found

    def rounds(self, kind, count=ROUNDS, compressed=True):
        """(how many were refused, contents that the image does not have)"""
        content = self.content(kind)
        refused = 0
        strange = set()
        for number in range(count):
            generator = random.Random(f"{kind} {number}")
            with self.subTest(number):
                point = self.try_mount(self.push_with(kind, damaged(content, generator),
                                                      compressed), number)
                if not point:
                    refused += 1
                    continue
                strange |= self.read_everything(point) - self.truth
                self.assertEqual(len(servers_under(point)), 1, "the server lives")
                self.unmount(point)
        return refused, strange

    def test_metadata(self):
        """The tree may be another one, as whoever makes the index says what it is."""
        refused, _ = self.rounds("metadata")
        self.assertGreater(refused, ROUNDS / 4)

    def test_chunk_table(self):
        refused, strange = self.rounds("chunks")
        self.assertGreater(refused, 0)
        self.assertEqual(strange, set(), "bytes that nobody has vouched for")

    def test_windows(self):
        _, strange = self.rounds("windows", 10, compressed=False)
        self.assertEqual(strange, set(), "bytes that nobody has vouched for")

    def test_bomb(self):
        """A part of 1 MB that decodes to far more than it says."""
        index = self.push_with("metadata", self.content("metadata"))
        body = json.loads(self.registry_client.manifest("small", index)[0])
        bomb = zstd("-19", "--long=27", data=bytes(1 << 30))
        self.registry_client.push_blob("small", digest_of(bomb), bomb, len(bomb))
        part = next(part for part in body["layers"] if PREFIX + "metadata" in part["mediaType"])
        part |= {"digest": digest_of(bomb), "size": len(bomb)}
        text = json.dumps(body).encode()
        self.registry_client.push_manifest("small", digest_of(text), MANIFEST, text)
        self.assertIsNone(self.try_mount(digest_of(text), "bomb"))

    def test_sizes_that_are_lies(self):
        for field, value in (("size", 1), ("size", 1 << 62), ("size", -1)):
            with self.subTest(field=field, value=value):
                body = json.loads(json.dumps(self.manifest))
                body["layers"][0][field] = value
                text = json.dumps(body).encode()
                try:
                    self.registry_client.push_manifest("small", digest_of(text), MANIFEST, text)
                except RuntimeError:
                    continue  # the registry refuses it itself
                self.assertIsNone(self.try_mount(digest_of(text), f"{field}{value}"))
        for value in ("0", "-1", "99999999999999999999", "12", "x", ""):
            with self.subTest(content_size=value):
                body = json.loads(json.dumps(self.manifest))
                body["layers"][0]["annotations"]["vnd.sluice.content.size"] = value
                text = json.dumps(body).encode()
                self.registry_client.push_manifest("small", digest_of(text), MANIFEST, text)
                self.assertIsNone(self.try_mount(digest_of(text), "content" + value))


class BoundedMemory(HostileIndex):
    """What parts say of themselves is true, and far more than a node should hold.

    A limit on private memory is what would turn a part that is held in memory into a failure for
    want of it. Threads' stacks count, too.
    """

    LIMIT = 192 << 20

    @classmethod
    def limited(cls):
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))
        resource.setrlimit(resource.RLIMIT_DATA, (cls.LIMIT, cls.LIMIT))

    def refused_by_mount(self, index, why):
        self.assertIsNone(self.try_mount(index, "limited", preexec_fn=self.limited))
        self.assertIn(why, self.refusal)
        self.assertNotIn("memory", self.refusal)

    def test_metadata_of_half_a_gibibyte(self):
        index = self.push_with("metadata", bytes(1 << 29))
        self.refused_by_mount(index, "metadata")

    def test_inspecting_tables_of_half_a_gibibyte(self):
        """The count at the head of the table is all that is looked at."""
        head = self.content("entries")[:12] + b"\x01"
        index = self.push_with("entries", head + bytes((1 << 29) - len(head)))
        image = self.registry_client.manifest("small", "latest")[0]
        manifest = json.loads(image)
        manifest["annotations"] = {"vnd.sluice.index.digest": index}
        body = json.dumps(manifest).encode()
        self.registry_client.push_manifest("small", "named", manifest["mediaType"], body)
        done = subprocess.run([workplace.SLUICE, "inspect", self.reference("small", "named")],
                              text=True, capture_output=True, timeout=60, env=self.environment,
                              check=False, preexec_fn=self.limited)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("1 entries", done.stdout)

    def test_many_large_chunk_tables(self):
        """Each is within the bound for one, their sum is not."""
        body = json.loads(json.dumps(self.manifest))
        for part in body["layers"]:
            if PREFIX + "chunks" in part["mediaType"]:
                part["annotations"]["vnd.sluice.content.size"] = str(100 << 20)
        text = json.dumps(body).encode()
        self.registry_client.push_manifest("small", digest_of(text), MANIFEST, text)
        self.refused_by_mount(digest_of(text), "chunk tables")

    def test_manifest_of_very_many_values(self):
        body = json.loads(json.dumps(self.manifest))
        body["annotations"] = {"x": "y"}
        text = json.dumps(body)[:-1].encode() + b',"more":[' + b"{}," * 1_200_000 + b"{}]}"
        try:
            self.registry_client.push_manifest("small", digest_of(text), MANIFEST, text)
        except RuntimeError:
            self.skipTest("the registry refuses it itself")
        self.refused_by_mount(digest_of(text), "values")
