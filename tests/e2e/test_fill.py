"""Fill: the rest of an image comes in the background, is verified, and an index that lies is found."""

import hashlib
import json
import os
import signal
import time

from e2e.test_every_image import everything_image
from tools import images, lying_index, tree
from tools.counting_proxy import CountingProxy, ProxyHandler
from tools.layers import LayerWriter
from tools.layout import MANIFEST, Layout
from tools.small_image import SmallImage
from tools.testcase import EndToEnd, servers_under


class Refusing(ProxyHandler):
    """Hangs up while the proxy's `refuses` is set."""

    def forward(self, proxy, body):
        if proxy.refuses:
            self.close_connection = True
            raise OSError("refused")
        return super().forward(proxy, body)


class Fill(SmallImage):
    """The small image, filled through a proxy that counts, into a cache of its own."""

    def setUp(self):
        super().setUp()
        self.proxy = CountingProxy(self.registry.name, Refusing)
        self.proxy.refuses = False
        self.addCleanup(self.proxy.close)
        self.proxied = f"{self.proxy.name}/small:latest"
        manifest = json.loads(self.client().manifest("small", "latest")[0])
        self.layers = [layer["digest"] for layer in manifest["layers"]]
        self.blob_bytes = sum(layer["size"] for layer in manifest["layers"])

    def fill_of(self, point):
        return self.status(point)["fill"]

    def wait_for_state(self, point, state):
        self.wait_until(lambda: self.fill_of(point).get("state") == state, f"fill is {state}", 60)
        return self.fill_of(point)

    def layer_bytes(self):
        return sum(self.proxy.blob_bytes(digest) for digest in self.layers)

    def assert_complete(self, point):
        fill = self.wait_for_state(point, "complete")
        self.assertEqual((fill["bytes_left"], fill["layers_verified"], fill["tree_verified"]),
                         (0, 2, True))
        self.assertTrue(all(layer["sealed"] for layer in self.status(point)["layers"]))


class Filling(Fill):
    """What comes, when, and what is known of it afterwards."""

    def test_filled_image_needs_no_registry(self):
        point = self.mount(self.proxied, "--fill", "now")
        self.assert_complete(point)
        fetched = self.layer_bytes()
        self.assertLess(fetched, self.blob_bytes * 1.1)
        self.proxy.close()
        self.assertEqual(self.wrong_files(point), [])
        self.assertIn("complete", self.sluice("status", point).stdout)
        self.unmount(point)
        listed = json.loads(self.sluice("cache", "ls", "--json", "--cache", self.cache).stdout)
        self.assertTrue(all(layer["sealed"] for layer in listed["layers"]))
        # What was verified once is known: nothing is asked for, nothing fetched.
        again = self.mount(self.proxied, "--fill", "now", name="again")
        self.assert_complete(again)
        self.assertEqual(self.wrong_files(again), [])
        self.assertEqual(self.status(again)["chunks_fetched"], 0)

    def test_without_fill_nothing_comes_unasked(self):
        point = self.mount(self.proxied)
        self.assertEqual(self.fill_of(point), {"mode": "off"})
        self.assertEqual(self.layer_bytes(), 0)

    def test_readers_do_not_wait_for_fill(self):
        """At this rate fill takes minutes; the readers are done long before."""
        point = self.mount(self.proxied, "--fill", "now", "--fill-rate", "20k")
        self.wait_for_state(point, "fetching")
        path = min(self.truth, key=lambda path: self.truth[path].size or 1 << 30)
        self.assertEqual(tree.content_digest(os.path.join(point, path)), self.truth[path].content)
        self.assertGreater(self.fill_of(point)["bytes_left"], 0)

    def test_idle_fill_completes(self):
        point = self.mount(self.proxied, "--fill", "idle")
        self.assert_complete(point)
        self.assertEqual(self.wrong_files(point), [])

    def test_rate_is_held(self):
        begun = time.monotonic()
        rate = self.blob_bytes // 3
        point = self.mount(self.proxied, "--fill", "now", "--fill-rate", rate)
        self.wait_until(lambda: self.fill_of(point)["bytes_left"] == 0, "all is there", 60)
        # A range that is under way and a quarter of a second may be ahead of the rate.
        self.assertGreater(time.monotonic() - begun, 1)

    def test_image_that_does_not_fit_is_left_to_readers(self):
        point = self.mount(self.proxied, "--fill", "now", "--cache-size", "12M")
        fill = self.wait_for_state(point, "no-room")
        self.assertIn("fit", fill["reason"])
        self.assertEqual(self.status(point)["chunks_fetched"], 0)
        self.assertEqual(self.wrong_files(point), [])

    def test_goes_on_after_a_kill(self):
        point = self.mount(self.proxied, "--fill", "now", "--fill-rate", self.blob_bytes // 4)
        self.wait_until(lambda: sum(layer["chunks_present"] for layer in
                                    self.status(point)["layers"]) > 4, "some of it is there")
        os.kill(self.status(point)["pid"], signal.SIGKILL)
        self.wait_until(lambda: not servers_under(point), "the server has ended")
        self.sluice("umount", point)
        self.proxy.forget()
        again = self.mount(self.proxied, "--fill", "now", name="again")
        self.assert_complete(again)
        self.assertLess(self.layer_bytes(), self.blob_bytes)
        self.assertEqual(self.wrong_files(again), [])

    def test_goes_on_when_the_registry_is_back(self):
        point = self.mount(self.proxied, "--fill", "idle")
        self.proxy.refuses = True
        self.wait_for_state(point, "paused")
        self.proxy.refuses = False
        self.assert_complete(point)

    def test_damage_is_found_and_mended(self):
        point = self.mount(self.proxied, "--fill", "now")
        self.assert_complete(point)
        self.unmount(point)
        layers = os.path.join(self.cache, "layers")
        data = os.path.join(layers, os.listdir(layers)[0], "data")
        with open(data, "r+b") as file:
            file.seek(1 << 20)
            file.write(b"damage")
        listed = json.loads(self.sluice("cache", "ls", "--json", "--cache", self.cache).stdout)
        self.assertEqual(sum(layer["sealed"] for layer in listed["layers"]), 1)
        done = self.sluice("cache", "verify", "--cache", self.cache, expect=1)
        self.assertIn("damaged, removed: chunk", done.stdout)
        again = self.mount(self.proxied, "--fill", "now", name="again")
        self.assert_complete(again)
        self.assertEqual(self.wrong_files(again), [])

    def test_two_mounts_fill_one_cache(self):
        points = [self.mount(self.proxied, "--fill", "now", name=name) for name in ("one", "two")]
        for point in points:
            self.assert_complete(point)
            self.assertEqual(self.wrong_files(point), [])

    def test_usage(self):
        for option, value, says in (("--fill", "later", "later"), ("--fill-rate", "much", "size")):
            self.fails("mount", self.proxied, "/mnt", option, value, says=(option, says), code=2)


class Honest(EndToEnd):
    """Whatever an honest index is of, it is not called a lie."""

    def expect_true(self, layout, tag):
        reference = self.push(layout, tag, tag)
        self.sluice("index", reference)
        point = self.mount(reference, "--fill", "now", name=tag)
        self.wait_until(lambda: self.status(point)["fill"]["state"] in ("complete", "false-index"),
                        f"{tag} is verified", 60)
        self.assertEqual(self.status(point)["fill"]["reason"], None)
        self.assertTrue(self.status(point)["fill"]["tree_verified"])

    def test_all_that_layers_can_say(self):
        layout, _ = everything_image()
        for form in ("gzip", "zstd-one-frame"):
            self.expect_true(layout, form)

    def test_debian(self):
        self.expect_true(images.debian().layout, images.debian().tag)


class Lies(Fill):
    """Every digest is right, and nothing of it is true."""

    def setUp(self):
        super().setUp()
        self.honest = json.loads(self.sluice("index", self.image_reference, "--json").stdout)[
            "index_digest"]

    def expect_refused(self, reference, index, *says):
        point = os.path.join(self.directory, "refused")
        os.makedirs(point, exist_ok=True)
        self.fails("mount", reference, point, "--cache", self.cache, "--index", index,
                   says=("truth", index, "--force", *says))
        forced = self.mount(reference, "--index", index, "--force", name="forced")
        self.assertIn("does not tell the truth", self.mount_output.stderr)
        self.unmount(forced)

    def expect_eio(self, point, paths):
        for path in paths:
            with self.assertRaises(OSError, msg=path):
                with open(os.path.join(point, path), "rb") as file:
                    file.read()

    def test_other_bytes(self):
        index = lying_index.with_other_bytes(self.client(), "small", self.honest, self.layers[1])
        # Nothing else can tell: this is what is wrong with believing an index.
        point = self.mount(self.proxied, "--index", index, name="believing")
        wrong = self.wrong_files(point)
        self.assertEqual({path.split("/")[0] for path in wrong}, {"upper"})
        self.unmount(point)
        point = self.mount(self.proxied, "--index", index, "--fill", "now")
        fill = self.wait_for_state(point, "false-index")
        self.assertIn("layer 2", fill["reason"])
        self.expect_eio(point, wrong)
        self.assertIn("layer 2", self.status(point)["last_error"])
        # The other layer is what it should be.
        lower = [path for path in self.truth if path.startswith("lower")]
        self.assertEqual([path for path in lower if tree.content_digest(
            os.path.join(point, path)) != self.truth[path].content], [])
        self.unmount(point)
        listed = json.loads(self.sluice("cache", "ls", "--json", "--cache", self.cache).stdout)
        self.assertEqual(len(listed["layers"]), 1)
        self.expect_refused(self.proxied, index, "layer 2")
        # Pruning forgets what can be fetched again, and not this.
        self.sluice("cache", "prune", "--all", "--cache", self.cache)
        self.expect_refused(self.proxied, index, "layer 2")
        # The honest one is another.
        point = self.mount(self.proxied, "--fill", "now", name="honest")
        self.assert_complete(point)
        self.assertEqual(self.wrong_files(point), [])

    def other_tree(self):
        """An image of layers as long as ours, with another mode; (repository, index)."""
        tars = []
        for number, mode in enumerate((0o644, 0o4755)):
            tars.append(os.path.join(self.directory, f"{self._testMethodName}-{number}.tar"))
            with LayerWriter(tars[-1]) as layer:
                layer.file("program", b"#!/bin/sh\n", mode=mode)
                layer.file("padding", bytes(3000))
        layout = Layout(os.path.join(self.directory, self._testMethodName + "-layout"))
        indexes = []
        for name, tar in zip(("ours", "theirs"), tars):
            images.add(layout, name, (tar,), ("gzip",), self.directory)
            reference = self.push(layout, name, name)
            indexes.append(json.loads(self.sluice("index", reference, "--json").stdout)[
                "index_digest"])
        return indexes

    def test_other_tree(self):
        ours, theirs = self.other_tree()
        for entries, says in ((False, "tree"), (True, "entries")):
            with self.subTest(entries=entries):
                # A layer that is sealed is read by the kernel, whom nobody can refuse it.
                self.cache = os.path.join(self.directory, "cache-" + says)
                index = lying_index.with_tree_of(self.client(), "ours", ours, "theirs", theirs,
                                                 entries)
                reference = f"{self.proxy.name}/ours:latest"
                point = self.mount(reference, "--index", index, "--fill", "now", name=says)
                self.assertEqual(os.lstat(os.path.join(point, "program")).st_mode & 0o7777, 0o4755)
                self.assertIn(says, self.wait_for_state(point, "false-index")["reason"])
                self.expect_eio(point, ["program"])
                self.unmount(point)
                self.expect_refused(reference, index, says)

    def test_config_of_another_image(self):
        """Who lies here may be the image; the index stays good for others."""
        client = self.client()
        manifest = json.loads(client.manifest("small", "latest")[0])
        config = json.loads(client.blob("small", manifest["config"]["digest"]))
        config["rootfs"]["diff_ids"][0] = "sha256:" + hashlib.sha256(b"other").hexdigest()
        body = json.dumps(config).encode()
        manifest["config"].update(digest=lying_index.digest_of(body), size=len(body))
        manifest["annotations"] = {"vnd.sluice.index.digest": self.honest}
        client.push_blob("small", manifest["config"]["digest"], body, len(body))
        client.push_manifest("small", "other", MANIFEST, json.dumps(manifest).encode())
        reference = f"{self.proxy.name}/small:other"
        point = self.mount(reference, "--fill", "now")
        self.assertIn("config", self.wait_for_state(point, "false-index")["reason"])
        self.unmount(point)
        self.expect_refused(reference, self.honest, "config")
        self.assert_complete(self.mount(self.proxied, "--fill", "now", name="honest"))
