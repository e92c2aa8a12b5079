"""Everything between node and registry goes wrong: late, or EIO, but never another byte."""

import collections
import json
import os
import time

from fakes.fault_proxy import FAULTS, FaultProxy
from tools import images, readers, rounds
from tools.registry import Registry, htpasswd_auth, token_auth, write_docker_config
from tools.testcase import EndToEnd, mounts_under, servers_under
from tools.token_server import TokenServer, make_key

BOUND = 5  # seconds that a read may wait
USER, PASSWORD = "reader", "a pass:word"


class Faults(EndToEnd):
    """Reads at random through a proxy that misbehaves, to a cache that starts empty."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image, cls.contents = images.for_reading()

    def setUp(self):
        self.seed = rounds.seed(self._testMethodName)
        self.push(self.image.layout, self.image.tag, "reading")
        self.sluice("index", self.reference("reading"))
        self.login = {}

    def start_proxy(self, registry, **options):
        self.proxy = FaultProxy(registry.name, self.seed, **options)
        self.addCleanup(self.proxy.close)
        self.image_reference = f"{self.proxy.name}/reading:latest"

    def guarded(self, auth):
        """A registry that asks who it is, with the same images."""
        registry = Registry(self.make_directory("registry"), auth, self.registry.storage)
        self.addCleanup(registry.stop)
        return registry

    def assert_reads(self, seconds, rate, *options):
        """Mounts, reads while things go wrong, then reads all when nothing does."""
        self.proxy.rate = 0
        number = self.mounts = getattr(self, "mounts", 0) + 1
        point = self.mount(self.image_reference, "--read-timeout", BOUND, *options,
                           name=f"mnt-{number}", environment=self.login,
                           cache=os.path.join(self.directory, f"{self._testMethodName}-{number}"))
        self.proxy.rate = rate
        with readers.Readers(point, self.contents, f"{self.seed} {number}", 12) as running:
            running.until(seconds)
        self.assertEqual(running.wrong, [])
        for failure in running.failures:
            # The kernel may ask twice, the machine be busy; without the bound it were minutes.
            self.assertLess(failure.seconds, 60, failure)
        self.assertEqual(len(servers_under(point)), 1, "the server lives")
        self.proxy.rate = 0
        self.assert_recovers(point)
        self.unmount(point)
        return running

    def assert_recovers(self, point):
        """What failed is remembered for a moment, and what has stalled takes its time to be given
        up; wrong bytes are never all right."""
        def all_is_right():
            lines = readers.wrong_files(point, self.contents)
            self.assertEqual([line for line in lines if "Input/output error" not in line], [])
            return not lines

        self.wait_until(all_is_right, "all can be read", seconds=120)

    def assert_rounds(self, rate=0.4, *options):
        """Each round begins with nothing, and has not room for all."""
        options = options or ("--cache-size", 32 << 20)
        deadline = time.monotonic() + rounds.duration(0)
        outcomes = [self.assert_reads(5, rate, *options)]
        while time.monotonic() < deadline:
            outcomes.append(self.assert_reads(20, rate, *options))
        print(f"       {sum(running.reads for running in outcomes)} reads, "
              f"{sum(len(running.failures) for running in outcomes)} errors, the slowest took "
              f"{max(running.slowest for running in outcomes):.1f} s; "
              f"faults: {dict(sorted(self.proxy.counts.items()))}")
        self.assertGreater(sum(self.proxy.counts.values()), 3)

    def test_anonymous(self):
        self.start_proxy(self.registry)
        self.assert_rounds()

    def test_stalls(self):
        """A server that stops in the middle of an answer, and says nothing for minutes."""
        self.start_proxy(self.registry, faults={"stall": 1})
        self.assert_rounds(0.1)

    def test_one_answer_that_stalls(self):
        """It is asked for again, long before it would be given up; else a read would wait for longer
        than it may."""
        self.start_proxy(self.registry, rate=0, faults={"stall": 1})
        self.proxy.most = 1
        point = self.mount(self.image_reference, "--read-timeout", 14,
                           cache=os.path.join(self.directory, self._testMethodName))
        self.proxy.rate = 0.2
        self.assertEqual(readers.wrong_files(point, self.contents), [])
        self.assertEqual(self.proxy.counts["stall"], 1)

    def test_basic_authentication(self):
        auth = htpasswd_auth(self.make_directory("auth"), USER, PASSWORD)
        self.start_proxy(self.guarded(auth), faults={**FAULTS, "unauthorized": 8})
        self.login = {"DOCKER_CONFIG": write_docker_config(self.directory, self.proxy.name, USER,
                                                           PASSWORD)}
        self.assert_rounds()

    def test_tokens_that_expire(self):
        """Tokens live for two seconds; the registry says so, and at random the proxy."""
        key, certificate = make_key(self.make_directory("auth"))
        issuer = TokenServer(key, certificate, USER, PASSWORD, lifetime=2)
        self.addCleanup(issuer.close)
        self.start_proxy(self.guarded(token_auth(certificate, issuer.realm)),
                         faults={**FAULTS, "unauthorized": 8})
        self.assert_rounds()
        self.assertGreater(len(issuer.asked), 2)

    def test_index_is_right_or_not_made(self):
        """Both ways: blobs that are read, and parts that are pushed."""
        self.start_proxy(self.registry, rate=0, concerns=".")
        right = json.loads(self.sluice("index", self.reference("reading"), "--json").stdout)
        outcomes = collections.Counter()
        for number, generator in rounds.of(self._testMethodName, 8):
            repository = f"again-{number}"
            self.push(self.image.layout, self.image.tag, repository)
            self.proxy.seed = generator.random()
            self.proxy.rate = generator.choice((0.03, 0.1, 0.2))
            reference = f"{self.proxy.name}/{repository}:latest"
            done = self.sluice("index", reference, "--json", expect=None)
            if done.returncode == 0:
                self.assertEqual(json.loads(done.stdout)["index_digest"], right["index_digest"])
            else:
                self.assertRegex(done.stderr.splitlines()[-1], "^sluice: ")
            outcomes[done.returncode] += 1
            self.proxy.rate = 0
            again = json.loads(self.sluice("index", reference, "--json").stdout)
            self.assertEqual(again["index_digest"], right["index_digest"])
        self.assertGreater(outcomes[0], 0)

    def test_mount_is_right_or_not_made(self):
        """Manifests, indexes and their parts go wrong; what is mounted can be read in full."""
        self.start_proxy(self.registry, rate=0, concerns=".")
        mounted = 0
        for number, generator in rounds.of(self._testMethodName, 12):
            self.proxy.seed = generator.random()
            self.proxy.rate = generator.choice((0.1, 0.3, 0.6))
            point = self.make_directory(f"mnt-{number}")
            self.addCleanup(self.unmount_if_mounted, point)
            done = self.sluice("mount", self.image_reference, point, "--cache",
                               os.path.join(self.directory, f"cache-{number}"), expect=None)
            self.proxy.rate = 0
            if done.returncode:
                self.assertRegex(done.stderr.splitlines()[-1], "^sluice: ")
                self.assertEqual(mounts_under(point), [])
                continue
            mounted += 1
            self.assertEqual(readers.wrong_files(point, self.contents), [])
            self.unmount(point)
        self.assertGreater(mounted, 0)
