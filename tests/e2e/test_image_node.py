"""Many images in one server: what they share, how they end, and what a death costs."""

import contextlib
import json
import os
import signal
import subprocess

from tools import images, lying_index, model, rounds, tree, workplace
from tools.image_node import ImageNode
from tools.layers import LayerWriter
from tools.layout import MANIFEST, Layout
from tools.testcase import EndToEnd, mounts_under


def _make(directory):
    tars = {name: os.path.join(directory, name + ".tar")
            for name in ("base", "change", "other", "top")}
    images.write_small_tree(tars["base"], 1, "base", 60)
    with LayerWriter(tars["change"]) as layer:
        layer.file("base/.wh.0003", b"")
        layer.file("base/0004", b"another\n" * 5000)
        layer.directory("base/new")
        layer.hardlink("base/new/link", "base/text")
    images.write_small_tree(tars["other"], 2, "other", 20)
    with LayerWriter(tars["top"]) as layer:
        layer.file("base/.wh..wh..opq", b"")
        layer.file("base/last", b"last\n")
    layout = Layout(os.path.join(directory, "layout"))
    for tag, names in (("first", ("base", "change", "top")), ("second", ("base", "other"))):
        images.add(layout, tag, [tars[name] for name in names], ["gzip"] * len(names),
                   directory)


class ImageNodeTest(EndToEnd):
    """Two images with their lowest layer in common, in repositories of their own."""

    def setUp(self):
        made = workplace.kept("image-node", workplace.source_of(
            "images.py", "layers.py", "layout.py", "../e2e/test_image_node.py"), _make)
        layout = Layout(os.path.join(made, "layout"))
        self.tars = {tag: [os.path.join(made, name + ".tar") for name in names] for tag, names in
                     (("first", ("base", "change", "top")), ("second", ("base", "other")))}
        self.references = {tag: self.push(layout, tag, tag) for tag in self.tars}
        for reference in self.references.values():
            self.sluice("index", reference)
        self.node = self.start_node()

    def wait_until_all_have_gone(self):
        try:
            self.wait_until(lambda: not self.node.status()["images"], "all have gone")
        except AssertionError as problem:
            log = "\n".join(self.node.log[-20:])
            raise AssertionError(f"{problem}: {self.node.status()}\n{log}") from None

    def start_node(self, name="cache", **options):
        node = ImageNode(os.path.join(self.directory, f"{self._testMethodName}-{name}"),
                         self.environment, **options)
        self.addCleanup(self.end_node, node)
        self.assertEqual(node.started, {}, node.log)
        return node

    def end_node(self, node):
        if node.process.poll() is None:
            node.stop()
        for point in mounts_under(self.directory):
            subprocess.run(["umount", "-l", point], check=False)

    def point(self, name):
        return os.path.join(self.directory, f"{self._testMethodName}-{name}")

    def open(self, number, tag, **options):
        point = self.point(str(number))
        answer = self.node.open(number, self.references[tag], point, **options)
        self.assertNotIn("error", answer)
        self.assertTrue(os.path.ismount(point))
        return point

    def shows(self, point, tars):
        self.assertEqual(model.Tree(tars).differences(point), [])


class ManyImages(ImageNodeTest):
    """What they share, and what they do not."""

    def test_shared_layer_is_fetched_once(self):
        first, second = self.open(1, "first"), self.open(2, "second")
        self.shows(first, self.tars["first"])
        fetched = self.node.status()["server"]["bytes_fetched"]
        self.shows(second, self.tars["second"])
        status = self.node.status()
        self.assertEqual(status["server"]["layers_open"], 4, "of five")
        shared, other = self.node.image(2)["layers"]
        self.assertEqual(shared["digest"], self.node.image(1)["layers"][0]["digest"])
        # What the first one hides of the layer is fetched, and nothing twice.
        layers = {layer["digest"]: layer["blob_bytes"] for number in (1, 2)
                  for layer in self.node.image(number)["layers"]}
        self.assertLessEqual(status["server"]["bytes_fetched"], sum(layers.values()))
        self.assertGreaterEqual(status["server"]["bytes_fetched"] - fetched, other["blob_bytes"] // 2)
        self.node.close(1)
        self.wait_until(lambda: self.node.status()["server"]["layers_open"] == 2,
                        "the first one's layers are closed")
        self.shows(second, self.tars["second"])
        self.assertFalse(os.path.ismount(first))

    def cache_files(self, folder):
        directory = os.path.join(self.directory, f"{self._testMethodName}-cache", folder)
        return os.listdir(directory)

    def test_what_nobody_needs_is_given_back(self):
        """Not before who still uses it has ended, and nothing that another image has."""
        first, second = self.open(1, "first"), self.open(2, "second")
        self.shows(first, self.tars["first"])
        self.shows(second, self.tars["second"])
        self.registry.stop()
        self.addCleanup(self.registry.start)
        kept = os.open(first, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.node.close(1)
            self.node.ask("give-back", self.references["first"])
            self.shows(f"/proc/self/fd/{kept}/.", self.tars["first"])
            self.assertEqual(4, len(self.cache_files("layers")))
        finally:
            os.close(kept)
        self.wait_until(lambda: len(self.cache_files("layers")) == 2, "two layers are given back")
        self.node.kill_server()
        self.wait_until(lambda: self.node.status()["servers_started"] == 2, "there is another one")
        self.wait_until(lambda: self.node.image(2)["state"] == "open", "it serves the image")
        self.shows(second, self.tars["second"])
        self.assertEqual(self.node.status()["server"]["errors"], 0)
        self.node.close(2)
        self.node.ask("give-back", self.references["second"])
        for folder in ("layers", "blobs", "names"):
            self.wait_until(lambda: not self.cache_files(folder), f"no {folder} are left")
        self.wait_until(lambda: self.node.status()["server"]["cache_bytes"] < 1 << 16,
                        "the server knows")

    def test_a_repository_may_go(self):
        """The device goes on with where another image has the layer."""
        gone = os.path.join(self.registry.storage, "docker/registry/v2/repositories/first")
        for closes in (False, True):
            with self.subTest(closes=closes):
                self.node = self.start_node(f"cache-{closes}")
                first, second = (10 * closes + number for number in (1, 2))
                self.open(first, "first")
                point = self.open(second, "second")
                os.rename(gone, gone + "-away")
                try:
                    if closes:
                        self.node.close(first)
                        self.wait_until(
                            lambda: self.node.status()["server"]["layers_open"] == 2, "it has gone")
                    self.shows(point, self.tars["second"])
                finally:
                    os.rename(gone + "-away", gone)
                self.assertEqual(self.node.status()["server"]["errors"], 0)

    def test_open_file_is_served_after_close(self):
        for number, front in enumerate(("auto", "fuse"), 1):
            with self.subTest(front):
                point = self.open(number, "first", front=front)
                truth = model.Tree(self.tars["first"]).nodes
                kept = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
                self.node.close(number)
                self.assertFalse(os.path.ismount(point))
                path = os.path.join(f"/proc/self/fd/{kept}", "base", "last")
                with open(path, "rb") as file:
                    self.assertEqual(file.read(), b"last\n")
                self.assertIn("base/last", truth)
                self.assertEqual([image["state"] for image in self.node.status()["images"]],
                                 ["left"])
                os.close(kept)
                self.wait_until(lambda: not self.node.status()["images"], "nobody uses it")
        self.assertEqual(self.node.status()["server"]["layers_open"], 0)

    def test_open_again_asks_nobody(self):
        answer = self.node.open(7, self.references["first"], self.point("7"))
        self.registry.stop()
        try:
            self.assertEqual(self.node.open(7, "127.0.0.1:1/none", self.point("7")), answer)
        finally:
            self.registry.start()
        self.assertEqual([layer["blob"] for layer in answer["layers"]],
                         [layer["digest"] for layer in self.node.image(7)["layers"]])

    def test_many_at_once(self):
        tags = [self.node.send_open(number, self.references["second"], self.point(str(number)))
                for number in range(1, 13)]
        for tag in tags:
            self.assertNotIn("error", self.node.answer(tag))
        for number in range(1, 13):
            self.assertTrue(os.path.ismount(self.point(str(number))))
        self.assertEqual(self.node.status()["server"]["layers_open"], 2)
        self.shows(self.point("5"), self.tars["second"])

    def test_first_layers_of_an_image(self):
        for layers in (1, 2, 3):
            for front in ("auto", "fuse"):
                with self.subTest(layers=layers, front=front):
                    number = 10 * layers + (front == "fuse")
                    point = self.open(number, "first", layers=layers, front=front)
                    self.shows(point, self.tars["first"][:layers])
                    self.assertEqual(len(self.node.image(number)["layers"]), layers)
        self.assertEqual(self.node.status()["server"]["layers_open"], 3)
        answer = self.node.open(99, self.references["first"], self.point("99"), layers=4)
        self.assertIn("3 layers", answer["error"])

    def test_first_layers_are_filled_and_found_true(self):
        point = self.open(1, "first", layers=2, fill="now")
        self.wait_until(lambda: self.node.image(1)["fill"]["state"] == "complete", "it is filled")
        self.assertTrue(self.node.image(1)["fill"]["tree_verified"])
        self.shows(point, self.tars["first"][:2])
        self.registry.stop()
        try:
            self.node.kill_server()
            self.wait_until(lambda: self.node.status()["servers_started"] == 2 and
                            self.node.image(1)["state"] == "open", "the next serves")
            self.shows(point, self.tars["first"][:2])
        finally:
            self.registry.start()

    def push_with_another_config(self):
        """The second image as one whose config says that its layers are others."""
        client = self.client()
        manifest = json.loads(client.manifest("second", "latest")[0])
        config = json.loads(client.blob("second", manifest["config"]["digest"]))
        config["rootfs"]["diff_ids"][0] = "sha256:" + "0" * 64
        body = json.dumps(config).encode()
        manifest["config"].update(digest=lying_index.digest_of(body), size=len(body))
        index = self.node.ask("look", self.references["second"])["index"]
        manifest["annotations"] = {"vnd.sluice.index.digest": index}
        client.push_blob("second", manifest["config"]["digest"], body, len(body))
        client.push_manifest("second", "lying", MANIFEST, json.dumps(manifest).encode())
        return self.reference("second", "lying")

    def test_what_is_false_of_one_image_is_true_of_another(self):
        lying = self.push_with_another_config()
        honest = self.open(1, "second", front="fuse")
        answer = self.node.open(2, lying, self.point("2"), front="fuse", fill="now")
        self.assertEqual(answer["trust"], "pinned")
        self.wait_until(lambda: self.node.image(2)["fill"]["state"] == "false-index", "it is found")
        with self.assertRaises(OSError):
            with open(os.path.join(self.point("2"), "base", "text"), "rb") as file:
                file.read()
        self.shows(honest, self.tars["second"])
        self.assertIn("config", self.node.status()["server"]["last_error"])

    def test_look(self):
        answer = self.node.ask("look", self.references["first"])
        self.assertEqual(len(answer["layers"]), 3)
        self.assertEqual((answer["front"], answer["trust"]), ("", "referrer"))
        status = self.node.status()
        self.assertEqual((status["images"], status["server"]["layers_open"]), ([], 0))

    def test_failures_are_told(self):
        answer = self.node.open(1, self.reference("none"), self.point("1"))
        self.assertIn("none", answer["error"])
        self.assertEqual(self.node.status()["images"], [])
        self.assertFalse(mounts_under(self.directory))
        # And forgotten.
        self.open(1, "first")

    def test_killed_server_is_followed_by_another(self):
        first, second = self.open(1, "first"), self.open(2, "second", fill="now")
        for _ in range(3):
            before = self.node.kill_server()
            self.wait_until(lambda gone=before: self.is_served_by_another(gone), "the next serves")
            self.shows(first, self.tars["first"])
            self.shows(second, self.tars["second"])
        self.assertEqual(self.node.status()["servers_started"], 4)
        self.assertIn("signal 9", " ".join(self.node.log))
        self.assertEqual(len(mounts_under(self.directory)), 2)

    def is_served_by_another(self, gone):
        status = self.node.status()
        return (status["server"] and status["server"]["pid"] != gone and
                all(image["state"] == "open" for image in status["images"]))

    def test_killed_while_it_opens(self):
        tag = self.node.send_open(1, self.references["first"], self.point("1"))
        self.node.kill_server()
        self.assertNotIn("error", self.node.answer(tag))
        self.shows(self.point("1"), self.tars["first"])

    def test_closed_while_there_is_no_server(self):
        """The next server goes on with what nobody uses, and says at once that it has gone."""
        for _ in range(5):
            for number in range(1, 9):
                self.assertNotIn("error", self.node.open(number, self.references["first"],
                                                         self.point(str(number))))
            self.node.kill_server()
            closing = [self.node.send("close", number) for number in range(1, 9)]
            for tag in closing:
                self.node.answer(tag)
            self.wait_until_all_have_gone()

    def test_server_ends_with_who_started_it(self):
        point = self.open(1, "first")
        server = self.node.server()
        self.node.process.send_signal(signal.SIGKILL)
        self.wait_until(lambda: not os.path.exists(f"/proc/{server}"), "the server has ended")
        subprocess.run(["umount", "-l", point], check=True)

    def test_it_is_confined(self):
        self.open(1, "first")
        with open(f"/proc/{self.node.server()}/status", encoding="ascii") as file:
            text = file.read()
        self.assertRegex(text, r"CapEff:\s+0+\n")
        self.assertRegex(text, r"NoNewPrivs:\s+1\n")
        self.assertLessEqual({"no-capabilities", "no-new-privileges"},
                             set(self.node.status()["server"]["confinement"]))

    def test_somebody_unmounts(self):
        point = self.open(1, "first")
        subprocess.run(["umount", point], check=True)
        self.wait_until(lambda: self.node.image(1)["state"] == "failed", "it is known")
        self.open(1, "first")
        self.shows(point, self.tars["first"])


class RandomImages(ImageNodeTest):
    """Whatever comes together, nothing of it stays."""

    STEPS = 30

    def setUp(self):
        super().setUp()
        self.killed = set()
        self.truths = {(tag, layers): model.Tree(self.tars[tag][:layers or None])
                       for tag, layers in (("first", 0), ("first", 1), ("first", 2), ("second", 0))}

    def step(self, generator, opened, pending):
        what = generator.choice(("open", "open", "open", "close", "close", "kill", "read", "wait"))
        number = generator.randrange(1, 9)
        if what == "open" and number not in opened:
            opened[number] = generator.choice(sorted(self.truths))
            tag, layers = opened[number]
            pending.append((number, self.node.send_open(
                number, self.references[tag], self.point(str(number)), layers=layers,
                front=generator.choice(("auto", "fuse")), fill=generator.choice(("off", "now")))))
        elif what == "close" and number in opened:
            del opened[number]
            # Perhaps while it opens, but not before that has begun.
            self.wait_until(lambda: self.node.image(number), "it is known")
            self.node.close(number)
        elif what == "kill":
            status = self.node.status()
            if status["server"]:
                self.killed.add(status["server"]["pid"])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(status["server"]["pid"], signal.SIGKILL)
        elif what == "read" and number in opened:
            with contextlib.suppress(OSError):  # it may just have been lost, or be on its way
                tree.snapshot(self.point(str(number)))
        elif what == "wait":
            self.settle(opened, pending)

    def is_served(self):
        server = self.node.status()["server"]
        return server and server["pid"] not in self.killed

    def settle(self, opened, pending):
        while pending:
            number, tag = pending.pop(0)
            answer = self.node.answer(tag)
            if "error" in answer:
                self.assertIn("closed", answer["error"])

    def test_random_lives(self):
        for number, generator in rounds.of(self._testMethodName, 3):
            with self.subTest(round=number):
                opened, pending = {}, []
                for _ in range(self.STEPS):
                    self.step(generator, opened, pending)
                self.settle(opened, pending)
                self.wait_until(self.is_served, "the last server serves")
                for image, (tag, layers) in opened.items():
                    point = self.point(str(image))
                    answer = self.node.open(image, self.references[tag], point)
                    self.assertNotIn("error", answer)
                    self.assertEqual(self.truths[tag, layers].differences(point), [])
                for image in opened:
                    self.node.close(image)
                self.wait_until_all_have_gone()
                self.assertEqual(mounts_under(self.directory), [])
                self.assertEqual(self.node.status()["server"]["layers_open"], 0)
