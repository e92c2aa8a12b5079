"""Profiles: recorded by running a command or on a node, published, and played by other nodes."""

import hashlib
import json
import os
import signal
import subprocess

from fakes.referrers import ReferrersApi
from tools import images, workplace
from tools.counting_proxy import CountingProxy, ProxyHandler
from tools.nginx import BLOBS_OF, Nginx
from tools.testcase import EndToEnd, mounts_under, need_mounted_root, servers_under

PROFILE = "application/vnd.sluice.profile.v1+zstd"
HELLO = ("python3", "-c", "import json, decimal; print(json.dumps({'a': str(decimal.Decimal(2))}))")


class ProfileTest(EndToEnd):
    """A repository of its own for each test; a proxy counts what nodes ask for."""

    def setUp(self):
        need_mounted_root(self)
        self.repository = self._testMethodName.replace("_", "-")
        image = self.image()
        self.direct = self.push(image.layout, image.tag, self.repository)
        self.proxy = self.proxy_of(self.registry.name)
        self.addCleanup(self.proxy.close)
        self.counted = self.reference(self.repository, registry=self.proxy)
        self.index = self.index_digest(self.direct)

    def proxy_of(self, upstream):
        return CountingProxy(upstream)

    def index_digest(self, reference):
        return json.loads(self.sluice("index", reference, "--json").stdout)["index_digest"]

    def manifest(self, digest):
        return json.loads(self.client().manifest(self.repository, digest)[0])

    def profile(self, *arguments):
        return json.loads(self.sluice("profile", "--json", *arguments).stdout)

    def fresh(self, reference, *options, name="mnt"):
        """Mounted by a node that has nothing."""
        return self.mount(reference, *options, cache=os.path.join(self.directory, self.id() + name),
                          name=name)

    def play(self, point):
        """The status once the profile was fetched, as far as it goes."""
        self.wait_until(lambda: self.status(point)["profile"]["state"] not in ("loading", "fetching"),
                        "the profile was played")
        return self.status(point)["profile"]

    def record(self, *paths):
        file = os.path.join(self.directory, self._testMethodName + ".record")
        point = self.fresh(self.direct, "--record", file, name="recording")
        for path in paths:
            with open(os.path.join(point, path), "rb") as source:
                source.read()
        self.unmount(point)
        return file

    def run_in(self, point, *command):
        return subprocess.run(["chroot", point, *command], text=True, stdout=subprocess.PIPE,
                              check=True).stdout


class Profiles(ProfileTest):
    """An image with python3."""

    def image(self):
        return images.debian()

    def test_recorded_by_a_command(self):
        told = self.sluice("profile", self.direct, "--", *HELLO)
        self.assertIn('{"a": "2"}', told.stdout)
        self.assertIn("profile of", told.stdout)
        self.assertEqual(mounts_under(self.directory), [])

        plain = self.fresh(self.counted, "--no-profile", name="plain")
        self.proxy.forget()
        self.run_in(plain, *HELLO)
        without = len(self.proxy.blob_requests())
        self.assertEqual(self.status(plain)["profile"], {"state": "off"})

        point = self.fresh(self.counted)
        played = self.play(point)
        self.assertEqual(played["state"], "done")
        self.assertEqual(played["chunks_here"], played["chunks"])
        self.assertGreater(played["chunks"], 5)
        before = self.status(point)["reads_missed"]
        self.proxy.forget()
        self.assertEqual(self.run_in(point, *HELLO), '{"a": "2"}\n')
        status = self.status(point)
        # The kernel reads a little further around than it did when it was recorded.
        self.assertLess(len(self.proxy.blob_requests()), without / 4)
        self.assertLess(status["reads_missed"] - before, without / 4)
        self.assertGreater(status["profile"]["chunks_read"], 0.8 * played["chunks"])

    def test_the_index_keeps_its_parts(self):
        told = self.profile(self.direct, "--", "/bin/true")
        old, new = self.manifest(self.index), self.manifest(told["index_digest"])
        self.assertEqual(new["layers"][:-1], old["layers"])
        self.assertEqual(new["layers"][-1]["mediaType"], PROFILE)
        self.assertEqual(new["subject"], old["subject"])
        self.assertEqual(self.index_digest(self.direct), told["index_digest"])
        # Made anew, the index keeps the profile, whose layers are the same.
        again = json.loads(self.sluice("index", "--force", "--json", self.direct).stdout)
        self.assertEqual(again["index_digest"], told["index_digest"])
        self.assertTrue(again["profile_kept"])

    def test_inspect_tells_the_files(self):
        told = self.profile(self.direct, "--", "cat", "/etc/os-release")
        inspected = json.loads(self.sluice("inspect", "--profile", "--json", self.direct).stdout)
        self.assertEqual(inspected["profile"]["chunks"], told["profile_chunks"])
        files = [entry["path"] for entry in inspected["profile"]["files"]]
        self.assertIn("usr/bin/cat", files)
        self.assertIn("usr/lib/os-release", files)
        self.assertLess(files.index("usr/bin/cat"), files.index("usr/lib/os-release"))
        text = self.sluice("inspect", "--profile", self.direct).stdout
        self.assertIn("usr/bin/cat", text)

    def test_the_command_has_its_own_world(self):
        script = ("touch /written && id -u && pwd && echo $$ && test -e /dev/null && "
                  "! test -e /dev/sda && ! mknod /dev/x b 8 0 && grep -c . /proc/mounts > /dev/null")
        told = self.sluice("profile", self.direct, "--network", "none", "--output",
                           os.path.join(self.directory, "own-world"), "--", "sh", "-c", script)
        self.assertEqual(told.stdout.splitlines()[:3], ["0", "/", "1"])

    def test_a_command_that_fails_is_not_published(self):
        self.fails("profile", self.direct, "--", "sh", "-c", "exit 7",
                   says=("exit code 7", "nothing is kept"))
        self.assertEqual(self.index_digest(self.direct), self.index)
        self.fails("profile", self.direct, "--from", "/nowhere", "--", "true", code=2,
                   says=("--from",))

    def test_the_end_of_time(self):
        told = self.profile(self.direct, "--timeout", "2", "--", "sh", "-c",
                            "trap exit TERM; sleep 1000 & wait")
        self.assertTrue(told["timed_out"])
        self.assertGreater(told["profile_chunks"], 0)

    def test_however_it_ends_nothing_is_left(self):
        for number in (signal.SIGQUIT, signal.SIGKILL):
            with self.subTest(signal=number):
                temporary = self.make_directory(str(int(number)))
                with subprocess.Popen(
                        [workplace.SLUICE, "profile", self.direct, "--", "sh", "-c",
                         "trap exit TERM; echo begun; sleep 1000 & wait"], text=True,
                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                        env={**self.environment, "TMPDIR": temporary}) as process:
                    self.assertEqual(process.stdout.readline(), "begun\n")
                    process.send_signal(number)
                    # The program has this pipe, too: here it is over.
                    self.assertEqual(process.communicate(timeout=60)[0], "")
                self.wait_until(lambda place=temporary: not os.listdir(place), "all is removed")
                self.assertEqual(servers_under(temporary), [])
                self.assertEqual(mounts_under(temporary), [])

    def test_merged(self):
        one = self.profile(self.direct, "--", "true")
        both = self.profile(self.direct, "--merge", "--", *HELLO)
        self.assertGreater(both["profile_chunks"], one["profile_chunks"])
        alone = self.profile(self.direct, "--", "true")
        self.assertLess(alone["profile_chunks"], both["profile_chunks"])


class SingleRanges(ProxyHandler):
    """Gives the whole blob when it is asked for several ranges, as many a storage does."""

    def forward(self, proxy, body):
        if "," in self.headers.get("Range", ""):
            del self.headers["Range"]
        return super().forward(proxy, body)


class Requests(ProfileTest):
    """How many it takes to fetch what a profile names."""

    def image(self):
        return images.debian()

    def setUp(self):
        super().setUp()
        told = self.profile(self.direct, "--", *HELLO)
        self.chunks = told["profile_chunks"]

    def requests(self, registry, proxy):
        """Those for blobs, and how many ranges they asked for, once it was all fetched."""
        proxy.forget()
        point = self.fresh(self.reference(self.repository, registry=registry))
        played = self.play(point)
        self.assertEqual(played["state"], "done")
        self.assertGreaterEqual(played["chunks_here"], self.chunks)
        self.assertEqual(self.run_in(point, *HELLO), '{"a": "2"}\n')
        self.assertEqual(self.status(point)["chunks_damaged"], 0)
        requests = proxy.blob_requests()
        return requests, sum((request.range or "").count(",") + 1 for request in requests)

    def assert_few(self, registry, proxy):
        requests, ranges = self.requests(registry, proxy)
        # A handful for the index's parts and for what the kernel reads further around.
        self.assertLess(len(requests), sum(request.length for request in requests) / 1e6 + 15)
        self.assertGreater(ranges, 2 * len(requests))

    def test_a_registry_gives_many_ranges_at_once(self):
        self.assert_few(self.proxy, self.proxy)

    def test_nginx_does(self):
        nginx = Nginx(os.path.join(self.directory, "nginx"), self.registry.name,
                      location=BLOBS_OF.format(storage=self.registry.storage))
        self.addCleanup(nginx.stop)
        proxy = self.proxy_of(nginx.name)
        self.addCleanup(proxy.close)
        self.assert_few(proxy, proxy)

    def test_who_does_not_is_asked_for_each(self):
        proxy = CountingProxy(self.registry.name, SingleRanges)
        self.addCleanup(proxy.close)
        requests, _ = self.requests(proxy, proxy)
        several = [request for request in requests if "," in (request.range or "")]
        # Those that were sent before the first was answered.
        self.assertLess(len(several), 10)
        self.assertGreater(len(requests), 2 * len(several))


class Records(ProfileTest):
    """By a node, and what is wrong with files."""

    def image(self):
        return images.small()

    def files(self, point):
        found = []
        for parent, _, names in os.walk(point):
            found += [os.path.relpath(os.path.join(parent, name), point) for name in names]
        return [path for path in sorted(found) if os.path.isfile(os.path.join(point, path)) and
                not os.path.islink(os.path.join(point, path)) and
                os.path.getsize(os.path.join(point, path))]

    def test_recorded_by_a_node(self):
        point = self.fresh(self.direct, name="first")
        path = max(self.files(point), key=lambda name: os.path.getsize(os.path.join(point, name)))
        file = self.record(path)
        told = self.profile(self.direct, "--from", file)
        inspected = json.loads(self.sluice("inspect", "--profile", "--json", self.direct).stdout)
        self.assertIn(path, [entry["path"] for entry in inspected["profile"]["files"]])
        other = self.fresh(self.counted, name="other")
        self.assertGreaterEqual(self.play(other)["chunks_here"], told["profile_chunks"])

    def test_written_at_once(self):
        file = os.path.join(self.directory, "at-once")
        self.fresh(self.direct, "--record", file, name="recording")
        self.assertGreater(os.path.getsize(file), 0)
        self.fails("mount", self.direct, self.make_directory("other"), "--cache", self.cache,
                   "--record", "/nowhere/file", says=("--record", "/nowhere/file"))

    def test_of_another_image(self):
        file = self.record()
        image = images.debian()
        other = self.push(image.layout, image.tag, self.repository + "-other")
        self.sluice("index", other)
        self.fails("profile", other, "--from", file, says=("other layers",))

    def test_garbage(self):
        file = self.record()
        with open(file, "r+b") as damaged:
            damaged.truncate(os.path.getsize(file) - 1)
        self.fails("profile", self.direct, "--from", file, says=(file, "cut short"))
        with open(file, "wb") as damaged:
            damaged.write(b"nonsense")
        self.fails("profile", self.direct, "--from", file, says=(file, "no profile"))

    def test_an_image_that_names_its_index(self):
        named = self.reference(self.repository, "named")
        self.sluice("index", self.direct, "--annotate", "named")
        file = self.record()
        self.fails("profile", named, "--from", file, says=("--annotate",))
        told = self.profile(named, "--from", file, "--annotate", "named")
        point = self.fresh(named, "--trust", "pinned")
        self.assertEqual(self.status(point)["index_digest"], told["index_digest"])

    def test_limited(self):
        point = self.fresh(self.direct, name="all")
        file = self.record(*self.files(point))
        whole = self.profile(self.direct, "--from", file)
        self.assertGreater(whole["profile_chunks"], 1)
        limited = self.fresh(self.counted, "--prefetch-limit", "600K", name="limited")
        played = self.play(limited)
        self.assertEqual(played["state"], "limited")
        self.assertLessEqual(played["bytes_here"], 600 << 10)
        self.assertLess(played["chunks_here"], whole["profile_chunks"])


class WithReferrersApi(ProfileTest):
    """The registry keeps the list of referrers, and old indexes in it."""

    def image(self):
        return images.small()

    def proxy_of(self, upstream):
        return ReferrersApi(upstream)

    def test_the_newest_index_is_found(self):
        self.direct = self.counted
        self.index_digest(self.counted)
        file = self.record()
        for _ in range(2):
            told = self.profile(self.counted, "--from", file)
            self.assertEqual(self.index_digest(self.counted), told["index_digest"])
        (listed,) = self.proxy.referrers.values()
        self.assertEqual(len(listed), 3)


class WrongProfiles(ProfileTest):
    """What a mount does with a profile that is no good."""

    def image(self):
        return images.small()

    def attach(self, blob, content=None, **descriptor):
        """Puts an index with these bytes as its profile in the place of the one that is there."""
        content = blob if content is None else content
        digest = "sha256:" + hashlib.sha256(blob).hexdigest()
        with_profile = self.manifest(self.index)
        with_profile["layers"].append({
            "mediaType": PROFILE, "digest": digest, "size": len(blob), "annotations": {
                "vnd.sluice.content.digest": "sha256:" + hashlib.sha256(content).hexdigest(),
                "vnd.sluice.content.size": str(len(content))}, **descriptor})
        body = json.dumps(with_profile).encode()
        index = "sha256:" + hashlib.sha256(body).hexdigest()
        self.client().push_blob(self.repository, digest, blob, len(blob))
        self.client().push_manifest(self.repository, index, with_profile["mediaType"], body)
        return index

    def check_mounts(self, index):
        point = self.fresh(self.counted, "--index", index)
        self.wait_until(lambda: self.status(point)["profile"]["state"] == "failed", "it gave up")
        for parent, _, names in os.walk(point):
            for name in names:
                path = os.path.join(parent, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        file.read()
        self.assertEqual(self.status(point)["errors"], 0)

    def zstd(self, data):
        return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE,
                              check=True).stdout

    def test_garbage(self):
        self.check_mounts(self.attach(b"garbage"))

    def test_of_other_layers(self):
        content = b"SLUICEPR\1\0\0\0\1\0\0\0" + bytes(32) + b"\0"
        self.check_mounts(self.attach(self.zstd(content), content))

    def test_of_a_later_version(self):
        content = b"SLUICEPR\2\0\0\0" + bytes(100)
        self.check_mounts(self.attach(self.zstd(content), content))

    def test_missing(self):
        index = self.attach(b"soon gone")
        manifest = self.manifest(index)
        os.unlink(self.registry.blob_file(manifest["layers"][-1]["digest"]))
        self.check_mounts(index)

    def test_that_does_not_come(self):
        """The mount does not wait for it, and ends while it is awaited."""
        index = self.attach(b"late")
        digest = self.manifest(index)["layers"][-1]["digest"]
        self.sluice("mount", self.counted, self.make_directory("warm"), "--cache", self.cache,
                    "--index", index, "--no-profile")
        self.addCleanup(self.unmount_if_mounted, f"{self.directory}/{self._testMethodName}-warm")
        self.proxy.hold_blobs.clear()
        point = self.mount(self.counted, "--index", index)
        self.assertEqual(self.status(point)["profile"], {"state": "loading"})
        self.unmount(point)
        self.proxy.hold_blobs.set()
        self.assertEqual(servers_under(point), [])
        self.assertTrue(digest)
