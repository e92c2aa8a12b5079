"""The cache directory: its bounds, and `sluice cache`."""

import json
import os
import shutil
import subprocess
import time

from tools import images
from tools.layers import LayerWriter
from tools.layout import Layout
from tools.small_image import SmallImage
from tools.testcase import servers_under
from tools.workplace import bytes_on_disk


class Cache(SmallImage):
    """A small image, read through caches that are too small, damaged, or somebody's own."""

    def on_disk(self):
        return bytes_on_disk(self.cache)

    def list(self):
        return json.loads(self.sluice("cache", "ls", "--json", "--cache", self.cache).stdout)

    def wait_until_stored(self):
        """Reads are answered before their chunks are stored; the end of a tar is read by nobody."""
        self.wait_until(lambda: len(layers := self.list()["layers"]) == 2 and
                        all(layer["chunks"] - layer["chunks_stored"] <= 1 for layer in layers),
                        "all is stored")

    def layer_file(self, name):
        """The largest of that name in any layer."""
        layers = os.path.join(self.cache, "layers")
        return max((os.path.join(layers, layer, name) for layer in os.listdir(layers)),
                   key=os.path.getsize)

    @staticmethod
    def drop_page_cache():
        """So that reads come to the server again."""
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("1")

    # ---- bounds ----

    def test_size_is_obeyed_and_every_byte_is_right(self):
        points = [self.mount(self.image_reference, "--cache-size", "8M", name=name)
                  for name in ("one", "two")]
        most = 0
        for seed in range(4):
            self.drop_page_cache()
            self.assertEqual(self.wrong_files(points[seed % 2], seed), [])
            most = max(most, self.on_disk())
        # What two servers are writing may come on top.
        self.assertLess(most, (8 << 20) + (12 << 20))
        for point in points:
            status = self.status(point)
            self.assertEqual((status["errors"], status["chunks_damaged"]), (0, 0))
        self.assertGreater(sum(self.status(point)["bytes_decoded"] for point in points),
                           sum(node.size for node in self.truth.values()), "there was eviction")
        self.wait_until(lambda: self.on_disk() <= 8 << 20, "the size is obeyed at rest")

    def test_reserve_that_is_not_there_means_no_storing(self):
        point = self.mount(self.image_reference, "--cache-reserve", "1000T")
        self.assertEqual(self.wrong_files(point), [])
        status = self.status(point)
        self.assertEqual(status["errors"], 0)
        self.assertGreater(status["store_errors"], 0)
        self.assertLess(self.on_disk(), 1 << 20)

    def test_one_frame_that_does_not_fit_is_refused(self):
        path = os.path.join(self.directory, "zeros.tar")
        with LayerWriter(path) as layer:
            layer.file("zeros", bytes(80 << 20))
        reference = self.push_one_layer(path, "one-frame")
        point = os.path.join(self.directory, "refused")
        os.mkdir(point)
        self.fails("mount", reference, point, "--cache", self.cache, "--cache-size", "50M",
                   says=("one long zstd frame", "the ordinary way"))
        self.mount(reference, "--cache-size", "200M")
        (layer,) = json.loads(self.sluice("inspect", "--json", reference).stdout)["layers"]
        self.assertTrue(layer["kept_whole"])

    def push_one_layer(self, tar, name):
        layout = Layout(os.path.join(self.directory, name))
        images.add(layout, name, (tar,), ("zstd-one-frame",), self.directory)
        reference = self.push(layout, name, name)
        self.sluice("index", reference)
        return reference

    def test_bad_sizes(self):
        for size in ("", "x", "-1", "5X", "1e400", "4M", "7MiBs"):
            with self.subTest(size):
                self.fails("mount", self.image_reference, "/nowhere", "--cache-size", size, code=2)

    def test_full_disk_makes_room_for_itself(self):
        os.mkdir(self.cache, 0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs", self.cache],
                       check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", self.cache], check=True)
        for reserve in ("0", "1M"):
            with self.subTest(reserve):
                point = self.mount(self.image_reference, "--cache-reserve", reserve, name=reserve)
                for seed in range(2):
                    self.drop_page_cache()
                    self.assertEqual(self.wrong_files(point, seed), [])
                status = self.status(point)
                self.assertEqual(status["errors"], 0)
                self.assertLess(status["store_errors"], status["chunks_fetched"] / 2)
                self.unmount(point)

    # ---- ls ----

    def test_list_of_a_mount_and_after_it(self):
        point = self.mount(self.image_reference, "--cache-size", "1G")
        self.assertEqual(self.wrong_files(point), [])
        self.wait_until_stored()
        found = self.list()
        (mount,) = found["mounts"]
        self.assertEqual((mount["image"], mount["mountpoint"], mount["size_limit"]),
                         (self.image_reference, point, 1 << 30))
        self.assertEqual({layer["digest"] for layer in found["layers"]},
                         {layer["digest"] for layer in self.status(point)["layers"]})
        for layer in found["layers"]:
            self.assertTrue(layer["in_use"])
            self.assertEqual(layer["images"], [self.image_reference])
            self.assertLessEqual(layer["stored_bytes"], layer["stream_bytes"])
            self.assertLess(abs(time.time() - layer["last_use"]), 600)
        self.assertGreater(found["disk_bytes"], found["layer_bytes"])
        self.unmount(point)
        found = self.list()
        self.assertEqual(found["mounts"], [])
        self.assertFalse(any(layer["in_use"] for layer in found["layers"]))
        text = self.sluice("cache", "ls", "--cache", self.cache).stdout
        self.assertIn(self.image_reference, text)

    def test_cache_that_is_not_there(self):
        self.fails("cache", "ls", "--cache", self.cache, says=("no cache directory",))
        self.assertFalse(os.path.exists(self.cache))

    def test_usage(self):
        for words in ((), ("burn",), ("prune",), ("prune", "--all", "--keep", "1G"), ("ls", "--all"),
                      ("verify", "--json"), ("prune", "--keep", "much"), ("ls", "more")):
            with self.subTest(words):
                self.fails("cache", *words, code=2)

    # ---- prune ----

    def test_prune_leaves_what_is_mounted(self):
        point = self.mount(self.image_reference)
        self.assertEqual(self.wrong_files(point), [])
        before = self.list()["layers"]
        self.sluice("cache", "prune", "--all", "--cache", self.cache)
        self.assertEqual(len(self.list()["layers"]), len(before))
        # All is still here: the registry is not needed, nor by the next mount.
        self.registry.stop()
        self.addCleanup(self.registry.start)
        self.drop_page_cache()
        self.assertEqual(self.wrong_files(point), [])
        self.unmount(point)
        point = self.mount(self.image_reference, name="again")
        self.assertEqual(self.wrong_files(point), [])
        self.unmount(point)
        self.sluice("cache", "prune", "--all", "--cache", self.cache)
        self.assertEqual(self.list()["layers"], [])
        self.assertLess(self.on_disk(), 64 << 10)

    def test_prune_keeps_what_was_used_last(self):
        point = self.mount(self.image_reference)
        self.assertEqual(self.wrong_files(point), [])
        self.unmount(point)
        keep = self.on_disk() // 2
        said = self.sluice("cache", "prune", "--keep", keep, "--cache", self.cache).stdout
        self.assertRegex(said, r"^freed \d")
        self.assertLessEqual(self.on_disk(), keep)
        self.assertGreater(self.on_disk(), keep // 4)
        point = self.mount(self.image_reference, name="again")
        self.assertEqual(self.wrong_files(point), [])

    # ---- verify ----

    def test_verify_finds_and_removes_damage(self):
        point = self.mount(self.image_reference)
        self.assertEqual(self.wrong_files(point), [])
        self.wait_until_stored()
        verify = ("cache", "verify", "--cache", self.cache)
        self.sluice(*verify)
        with open(self.layer_file("data"), "r+b") as file:
            for offset in (100, 4 << 20):
                file.seek(offset)
                file.write(b"damage")
        blobs = os.path.join(self.cache, "blobs")
        with open(os.path.join(blobs, sorted(os.listdir(blobs))[0]), "ab") as file:
            file.write(b"damage")
        done = self.sluice(*verify, expect=1)
        self.assertEqual(len([line for line in done.stdout.splitlines()
                              if line.startswith("damaged, removed: ")]), 3)
        self.sluice(*verify)
        # The mount that is there fetches what was taken from it.
        self.drop_page_cache()
        self.assertEqual(self.wrong_files(point), [])

    # ---- odd things ----

    def test_odd_things_in_the_place_of_files(self):
        def directory(path):
            os.makedirs(os.path.join(path, "in/it"))

        oddities = {"directory": directory,
                    "link": lambda path: os.symlink("/etc/passwd", path),
                    "dangling": lambda path: os.symlink("nowhere", path),
                    "fifo": os.mkfifo,
                    "closed": lambda path: os.close(os.open(path, os.O_CREAT, 0)),
                    "empty": lambda path: open(path, "wb").close()}
        point = self.mount(self.image_reference)
        self.assertEqual(self.wrong_files(point), [])
        self.unmount(point)
        whole = self.cache
        for kind, make in oddities.items():
            for level in (1, 2, 3):
                with self.subTest(kind, level=level):
                    self.cache = f"{whole}-{kind}-{level}"
                    shutil.copytree(whole, self.cache)
                    for path in self.entries(level):
                        if os.path.isdir(path) and not os.path.islink(path):
                            shutil.rmtree(path)
                        else:
                            os.unlink(path)
                        make(path)
                    point = self.mount(self.image_reference, "--cache-size", "1G",
                                       name=f"{kind}-{level}")
                    self.assertEqual(self.wrong_files(point), [])
                    self.wait_until_stored()
                    self.unmount(point)
        with open("/etc/passwd", "rb") as file:
            self.assertIn(b"root", file.read())

    def test_cut_off_while_it_is_mounted(self):
        """What is stored afterwards must not make holes of what was there before."""
        point = self.mount(self.image_reference)
        self.assertEqual(self.wrong_files(point), [])
        self.wait_until_stored()
        for layer in os.listdir(os.path.join(self.cache, "layers")):
            os.truncate(os.path.join(self.cache, "layers", layer, "data"), 0)
        for seed in range(3):
            self.drop_page_cache()
            self.assertEqual(self.wrong_files(point, seed), [])
        self.assertGreater(self.status(point)["chunks_damaged"], 0)

    def test_closed_directory(self):
        self.unmount(self.mount(self.image_reference))
        closed = os.path.join(self.cache, "blobs")
        os.chmod(closed, 0)
        self.fails("mount", self.image_reference, self.make_directory("closed"), "--cache",
                   self.cache, says=(closed, "chmod 700"))
        os.chmod(closed, 0o700)

    def entries(self, level):
        found = [self.cache]
        for _ in range(level):
            found = [os.path.join(path, name) for path in found
                     if os.path.isdir(path) for name in os.listdir(path)]
        return found

    # ---- deaths and copies ----

    def test_copy_taken_while_it_was_written(self):
        point = self.mount(self.image_reference, "--cache-size", "8M")
        reader = subprocess.Popen(["find", point, "-type", "f", "-exec", "cat", "{}", "+"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(reader.wait)
        copies = []
        while reader.poll() is None and len(copies) < 4:
            copies.append(f"{self.cache}-{len(copies)}")
            subprocess.run(["cp", "-r", "--sparse=always", self.cache, copies[-1]], check=False,
                           stderr=subprocess.DEVNULL)
        (pid, _), = servers_under(point)
        os.kill(pid, 9)
        reader.wait()
        self.wait_until(lambda: not servers_under(point), "the server is gone")
        self.sluice("umount", point)
        for number, copy in enumerate([*copies, self.cache]):
            self.cache = copy
            point = self.mount(self.image_reference, "--cache-size", "9M", name=f"copy-{number}")
            self.assertEqual(self.wrong_files(point, number), [])
            self.unmount(point)
