"""Images of unusual shape, and tags that move."""

import hashlib
import json
import os
import subprocess

from tools import images, layers, tree
from tools.layers import LayerWriter
from tools.layout import IMAGE_INDEX, MANIFEST, Layout
from tools.testcase import EndToEnd


class Shapes(EndToEnd):
    """Each test makes its image by hand."""

    def setUp(self):
        self.work = self.make_directory("work")
        self.layout = Layout(os.path.join(self.work, "layout"))
        self.cache = os.path.join(self.work, "cache")

    def layer(self, name, fill, how="gzip"):
        tar, blob = (os.path.join(self.work, name + end) for end in (".tar", ".blob"))
        with LayerWriter(tar) as writer:
            fill(writer)
        return tar, blob, layers.compress(tar, blob, how)

    def index_and_mount(self, image_layers, tag="image"):
        self.layout.add_image(image_layers, tag)
        reference = self.push(self.layout, tag, self._testMethodName.replace("_", "-"), tag)
        self.sluice("index", reference)
        return self.mount(reference, name=tag)

    def test_the_same_layer_twice(self):
        """The second one brings back what the layer between has hidden."""
        again = self.layer("again", lambda tar: tar.file("again", b"here\n"))
        hide = self.layer("hide", lambda tar: (tar.whiteout("again"), tar.file("other", b"o")))
        point = self.index_and_mount([again, hide, again])
        with open(os.path.join(point, "again"), "rb") as file:
            self.assertEqual(file.read(), b"here\n")
        self.assertEqual(sorted(os.listdir(point)), ["again", "other"])

    def test_layers_of_nothing(self):
        nothing = self.layer("nothing", lambda tar: None)
        something = self.layer("something", lambda tar: tar.file("file", b"x"))
        point = self.index_and_mount([nothing, something, nothing])
        self.assertEqual(os.listdir(point), ["file"])
        point = self.index_and_mount([nothing], "empty")
        self.assertEqual(os.listdir(point), [])

    def test_mixed_compressions(self):
        parts = [self.layer(how, lambda tar, how=how: tar.file(how, how.encode() * 100000), how)
                 for how in ("tar", "gzip", "zstd-frames", "gzip-members", "zstd-one-frame")]
        point = self.index_and_mount(parts)
        for how in os.listdir(point):
            with open(os.path.join(point, how), "rb") as file:
                self.assertEqual(file.read(), how.encode() * 100000)
        self.assertEqual(len(os.listdir(point)), 5)

    def test_layer_that_is_no_tar_is_refused(self):
        tar, blob = os.path.join(self.work, "bad.tar"), os.path.join(self.work, "bad.blob")
        with open(tar, "wb") as file:
            file.write(b"this is no tar archive at all\n" * 100)
        self.layout.add_image([(tar, blob, layers.compress(tar, blob, "gzip"))], "bad")
        reference = self.push(self.layout, "bad", "no-tar")
        self.fails("index", reference, says=("layer",))
        self.assertEqual(self.client().tags("no-tar"), ["latest"])

    def test_layer_cut_short_is_refused(self):
        tar, blob, media_type = self.layer("cut", lambda tar: tar.file("f", os.urandom(300000)))
        os.truncate(blob, 200000)
        self.layout.add_image([(tar, blob, media_type)], "cut")
        self.fails("index", self.push(self.layout, "cut", "cut-short"), says=("layer",))

    def test_config_that_names_other_contents_is_refused(self):
        """The config's diffID is what a pull would check, too."""
        right = self.layer("right", lambda tar: tar.file("f", b"right"))
        wrong = self.layer("wrong", lambda tar: tar.file("f", b"wrong"))
        self.layout.add_image([(right[0], wrong[1], wrong[2])], "lying")
        self.fails("index", self.push(self.layout, "lying", "lying"), says=("diffid",))

    def test_docker_manifests(self):
        """What `docker push` makes: media types of Docker, schema 2."""
        image = images.small()
        reference = self.reference("docker-format")
        subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", "--format", "v2s2",
                        "--dest-tls-verify=false", f"oci:{image.layout.directory}:{image.tag}",
                        "docker://" + reference], check=True)
        body = self.client().request(
            "GET", "/v2/docker-format/manifests/latest", headers={
                "Accept": "application/vnd.docker.distribution.manifest.v2+json"})[1]
        self.assertIn("docker", json.loads(body)["mediaType"])
        self.sluice("index", reference)
        point = self.mount(reference)
        truth = tree.snapshot(images.unpacked(image))
        self.assertEqual(tree.differences(truth, tree.snapshot(point))[:10], [])


class Tags(EndToEnd):
    """What a tag means may change; what is mounted does not."""

    def setUp(self):
        self.cache = os.path.join(self.directory, self._testMethodName + "-cache")
        self.layout = Layout(self.make_directory("layout"))
        self.repository = self._testMethodName.replace("_", "-")

    def publish(self, content, index=True):
        tar, blob = (os.path.join(self.layout.directory, content + end) for end in (".t", ".b"))
        with LayerWriter(tar) as writer:
            writer.file("content", content.encode())
        self.layout.add_image([(tar, blob, layers.compress(tar, blob, "gzip"))], content)
        reference = self.push(self.layout, content, self.repository)
        if index:
            self.sluice("index", reference)
        return reference

    def content(self, point):
        with open(os.path.join(point, "content"), encoding="ascii") as file:
            return file.read()

    def test_tag_that_moves(self):
        reference = self.publish("first")
        old = self.mount(reference, name="old")
        self.publish("second")
        new = self.mount(reference, name="new")
        self.assertEqual((self.content(old), self.content(new)), ("first", "second"))

    def test_tag_that_moves_to_an_image_without_index(self):
        reference = self.publish("first")
        self.unmount(self.mount(reference))
        self.publish("second", index=False)
        point = self.make_directory("new")
        self.fails("mount", reference, point, "--cache", self.cache,
                   says=("sluice index " + reference,))

    def test_digest_decides_over_the_tag(self):
        reference = self.publish("first")
        digest = self.layout.find("first")["digest"]
        self.publish("second")
        point = self.mount(f"{reference}@{digest}")
        self.assertEqual(self.content(point), "first")

    def test_pinned_index(self):
        reference = self.publish("first")
        made = json.loads(self.sluice("index", reference, "--json").stdout)["index_digest"]
        point = self.mount(reference, "--index", made)
        self.assertEqual(self.status(point)["trust"], "pinned")
        other = self.mount(reference, name="other")
        self.assertEqual(self.status(other)["trust"], "referrer")

    def test_index_that_was_replaced(self):
        """What the node has goes on working; what it lost comes from the index that is there."""
        reference = self.publish("first")
        old = json.loads(self.sluice("inspect", reference, "--json").stdout)["index_digest"]
        self.unmount(self.mount(reference))
        client = self.client()
        manifest = json.loads(client.manifest(self.repository, old)[0])
        body = json.dumps({**manifest, "annotations": {"made": "again"}}).encode()
        new = "sha256:" + hashlib.sha256(body).hexdigest()
        client.push_manifest(self.repository, new, MANIFEST, body)
        entry = {"mediaType": MANIFEST, "digest": new, "size": len(body),
                 "artifactType": "application/vnd.sluice.index.v1+json"}
        tag = self.layout.find("first")["digest"].replace(":", "-")
        client.push_manifest(self.repository, tag, IMAGE_INDEX, json.dumps(
            {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry]}).encode())
        client.expect(202, "DELETE", f"/v2/{self.repository}/manifests/{old}")
        point = self.mount(reference)
        self.assertEqual(self.status(point)["index_digest"], old)
        self.unmount(point)
        os.unlink(os.path.join(self.cache, "blobs", old.removeprefix("sha256:")))
        for _ in range(2):
            point = self.mount(reference)
            self.assertEqual(self.status(point)["index_digest"], new)
            self.assertEqual(self.content(point), "first")
            self.unmount(point)

    def test_index_of_another_image_is_refused(self):
        self.publish("first")
        other = json.loads(self.sluice("inspect", self.reference(self.repository),
                                       "--json").stdout)["index_digest"]
        reference = self.publish("second")
        point = self.make_directory("new")
        self.fails("mount", reference, point, "--cache", self.cache, "--index", other,
                   says=("another image",))
        # Nor does it help to list it as a referrer of the second image.
        client = self.client()
        tag = self.layout.find("second")["digest"].replace(":", "-")
        body = client.manifest(self.repository, other)[0]
        entry = {"mediaType": MANIFEST, "digest": other, "size": len(body),
                 "artifactType": "application/vnd.sluice.index.v1+json"}
        client.push_manifest(self.repository, tag, IMAGE_INDEX, json.dumps(
            {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry]}).encode())
        self.fails("mount", reference, point, "--cache", self.cache + "-2",
                   says=("another image",))
        self.sluice("index", reference)
        self.assertEqual(self.content(self.mount(reference, cache=self.cache + "-3")), "second")
