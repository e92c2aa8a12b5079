"""What breaks around a node: registry, credentials, disks. Containers live on, and it is told."""

import os
import shutil
import subprocess

import grpc

from tools import small_disk
from tools.container_images import PROGRAM, TREE, family_sums
from tools.counting_proxy import CountingProxy, ProxyHandler
from tools.registry import Registry, htpasswd_auth, token_auth, write_docker_config
from tools.sluiced_node import SluicedNode
from tools.testcase import mounts_under
from tools.token_server import TokenServer, make_key

USER, PASSWORD = "puller", "a password"


class FaultyNode(SluicedNode):
    """Images of a family, which come as they are read."""

    images = 2
    configuration = '[lazy]\nfill = "off"\nread_timeout = "5s"\n'

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.push_family(cls.images)
        super().start_daemons(proxies)

    @classmethod
    def keep_cache_in(cls, directory):
        cls.configuration = (FaultyNode.configuration +
                             f'[cache]\ndirectory = "{directory}/cache"\n')

    def start(self, name, number=0, registry=None):
        """A container of an image, in a pod of its own."""
        reference = self.reference(f"family-{number}", registry=registry)
        self.cri.pull(reference)
        return self.cri.start(self.pod(name), name, reference, PROGRAM, "pause")

    def reads(self, container, part="", number=0):
        """Whether a part of the tree can be read, which is then right."""
        path = os.path.join(TREE, part) if part else TREE
        code, text = self.cri.execute(container, PROGRAM, "sum", path)
        if code == 0:
            wanted = family_sums(number).splitlines(keepends=True)
            self.assertEqual(text, "".join(line for line in wanted if path + "/" in line))
        return code == 0

    def check_end(self):
        """All can be removed, and nothing is left."""
        self.cri.remove_all_pods()
        self.remove_images()
        self.assert_nothing_left()


class RegistryFaults(FaultyNode):
    """It goes, or wants other credentials. Each test has images of its own."""

    images = 5
    configuration = FaultyNode.configuration + '[log]\nlevel = "debug"\n'

    def test_registry_is_down(self):
        container = self.start("lives")
        self.assertTrue(self.reads(container, "all"))
        self.registry.stop()
        try:
            self.assertNotEqual(0, self.cri.execute(container, PROGRAM, "show",
                                                    f"{TREE}/own-0/00")[0], "nobody has it")
            self.assertTrue(self.reads(container, "all"), "what is here can be read")
            self.assertTrue(self.told(self.registry.name))
            reason = self.sluiced_status()["server"]["last_error"]
            self.assertIn(self.registry.name, str(reason))
        finally:
            self.registry.start()
        self.wait_until(lambda: self.reads(container), "all can be read again")
        self.check_end()

    def test_wrong_credentials(self):
        """containerd has the right ones, sluiced has others: the image is an ordinary one."""
        directory = self.make_directory("private")
        private = Registry(directory, htpasswd_auth(directory, USER, PASSWORD))
        self.addCleanup(private.stop)
        self.containerd.allow_plain(private.name)
        login = write_docker_config(self.directory, private.name, USER, PASSWORD)
        self.environment["DOCKER_CONFIG"] = login  # of what makes the indexes
        self.addCleanup(self.environment.pop, "DOCKER_CONFIG")
        self.push_family(2, private, (USER, PASSWORD))
        wrong = write_docker_config(self.directory, private.name, USER, "another password")
        os.rename(wrong, os.path.join(self.environment["HOME"], ".docker"))
        reference = self.reference("family-1", registry=private)
        self.cri.pull(reference, username=USER, password=PASSWORD)
        ordinary = {each["name"]: each["reason"] for each in self.sluiced_status()["ordinary"]}
        self.assertIn("refused the credentials", ordinary[reference])
        self.assertFalse(self.told("another password"))
        self.assertEqual([], self.lazy_mounts())
        pod = self.pod()
        self.assertEqual((0, family_sums(1)),
                         self.cri.run(pod, "sums", reference, PROGRAM, "sum", TREE))
        self.check_end()

    def test_tokens_expire(self):
        directory = self.make_directory("tokens")
        key, certificate = make_key(directory)
        issuer = TokenServer(key, certificate, USER, PASSWORD)
        self.addCleanup(issuer.close)
        guarded = Registry(directory, token_auth(certificate, issuer.realm),
                           storage=self.registry.storage)
        self.addCleanup(guarded.stop)
        proxy = CountingProxy(guarded.name, ExpiredTokens)
        self.addCleanup(proxy.close)
        proxy.seen, proxy.expired = set(), set()
        self.containerd.allow_plain(proxy.name)
        container = self.start("reads", 2, registry=proxy)
        self.assertEqual([self.reference("family-2", registry=proxy)], self.lazy_names())
        proxy.expired |= proxy.seen
        asked = len(issuer.asked)
        self.assertTrue(self.reads(container, number=2))
        self.assertGreater(len(issuer.asked), asked, "a new token was asked for")
        self.assertTrue(self.told("HTTP 206"), "every answer is in the log")
        self.assertFalse([token for token in issuer.given if self.told(token)])
        self.check_end()

    def test_cache_is_deleted(self):
        container = self.start("lives", 3)
        self.assertTrue(self.reads(container, "all", 3))
        shutil.rmtree(os.path.join(self.sluiced.root, "cache"))
        self.assertTrue(self.reads(container, number=3))
        other = self.start("starts", 4)
        self.assertTrue(self.reads(other, number=4))
        self.sluiced.end()
        self.sluiced.start()
        self.wait_until(self.is_reached, "containerd has connected again")
        self.assertTrue(self.reads(other, number=4))
        self.assertTrue(self.reads(self.start("later", 4), number=4))
        self.check_end()


class ExpiredTokens(ProxyHandler):
    """The registry does not see tokens that the proxy calls expired."""

    def forward(self, proxy, body):
        token = self.headers.get("Authorization")
        if token in proxy.expired:
            del self.headers["Authorization"]
        elif token:
            proxy.seen.add(token)
        return super().forward(proxy, body)


class FullCache(FaultyNode):
    """The disk of the cache has no room, and the cache none to give back."""

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.small = os.path.join(cls.directory, "small")
        os.mkdir(cls.small)
        cls.addClassCleanup(small_disk.mount(cls.small, "10m"))
        cls.keep_cache_in(cls.small)
        super().start_daemons(proxies)

    def test_reads_are_right(self):
        filler = small_disk.fill(self.small)
        container = self.start("reads")
        for _ in range(2):
            self.assertTrue(self.reads(container))
        self.assertGreater(self.sluiced_status()["server"]["store_errors"], 0)
        self.assertTrue(self.told("No space left"))
        os.unlink(filler)
        self.assertTrue(self.reads(self.start("more", 1), number=1))
        self.check_end()


class FullRoot(FaultyNode):
    """The snapshots are on a disk that becomes full, and has room again."""

    @classmethod
    def start_daemons(cls, proxies=None):
        root = os.path.join(cls.directory, "sluiced", "root")
        os.makedirs(root)
        cls.addClassCleanup(small_disk.mount(root, "20m"))
        cls.keep_cache_in(cls.directory)
        super().start_daemons(proxies)

    def test_full_for_a_while(self):
        container = self.start("lives")
        self.assertTrue(self.reads(container, "all"))
        filler = small_disk.fill(self.sluiced.root)
        self.assertTrue(self.reads(container))
        with self.assertRaisesRegex(grpc.RpcError, "(?i)no space left|disk is full"):
            self.start("fails")
        with self.assertRaisesRegex(grpc.RpcError, "(?i)no space left|disk is full"):
            self.start("fails-too", 1)
        os.unlink(filler)
        self.assertTrue(self.reads(self.start("starts")))
        self.assertTrue(self.reads(self.start("other", 1), number=1))
        self.assertTrue(self.reads(container))
        self.check_end()

    def test_starts_on_a_full_disk(self):
        container = self.start("lives")
        filler = small_disk.fill(self.sluiced.root)
        self.sluiced.end()
        self.sluiced.start()
        self.assertTrue(self.reads(container))
        os.unlink(filler)
        self.wait_until(self.is_reached, "containerd has connected again")
        self.assertTrue(self.reads(self.start("starts")))
        self.check_end()


class CachedImages(FaultyNode):
    """Images, that of pods as well, that are here as a whole."""

    indexed = (0,)
    configuration = '[lazy]\nfill = "now"\n'

    def all_are_here(self):
        views = [view for image in self.sluiced_status()["images"] for view in image["views"]]
        return len(views) == 2 and all(view["fill"]["state"] == "complete" for view in views)

    def end_node(self):
        """As when the machine goes down: nothing runs, and nothing is mounted."""
        self.cri.close()
        self.containerd.end()
        self.sluiced.end()
        self.sluiced.end_holder()
        for point in mounts_under(self.sluiced.root):
            subprocess.run(["umount", point], check=True)
        shutil.rmtree(self.containerd.state)

    def test_node_starts_without_registry(self):
        self.start("before")
        self.wait_until(self.all_are_here, "all is here")
        self.registry.stop()
        try:
            self.end_node()
            self.sluiced.start()
            self.containerd.start()
            self.cri.connect()
            reference = self.reference("family-0")
            pod = self.pod("after")
            self.assertEqual((0, family_sums(0)),
                             self.cri.run(pod, "sums", reference, PROGRAM, "sum", TREE))
            self.check_end()
        finally:
            self.registry.start()


class RegistryFaultsNewer(RegistryFaults):
    """With containerd 2.x."""

    newer = True


class FullRootNewer(FullRoot):
    """With containerd 2.x."""

    newer = True


class CachedImagesNewer(CachedImages):
    """With containerd 2.x."""

    newer = True
