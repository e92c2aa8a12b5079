"""Mirrors, certificates and proxies: nginx in front of docker-registry, settings as containerd's."""

import json
import os
import shutil
import threading

from tools import images, tree
from tools.certificates import Authority
from tools.connect_proxy import ConnectProxy
from tools.nginx import Nginx
from tools.registry import Registry
from tools.testcase import EndToEnd


class Hosts(EndToEnd):
    """An indexed image in the registry, and a directory of settings for each test."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.authority = Authority(os.path.join(cls.directory, "authority"))
        cls.server_certificate = cls.authority.issue("server")

    def setUp(self):
        self.cache = os.path.join(self.directory, self._testMethodName + "-cache")
        self.hosts = self.make_directory("certs.d")
        self.image = images.small()
        self.image_reference = self.push(self.image.layout, self.image.tag, "small")
        self.sluice("index", self.image_reference)

    def nginx(self, name="nginx", upstream=None, **options):
        server = Nginx(os.path.join(self.directory, f"{self._testMethodName}-{name}"),
                       upstream or self.registry.name, **options)
        self.addCleanup(server.stop)
        return server

    def configure(self, registry_name, text):
        """Writes a hosts.toml; returns its directory."""
        directory = os.path.join(self.hosts, registry_name)
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "hosts.toml"), "w", encoding="utf-8") as file:
            file.write(text)
        return directory

    def mount_with_hosts(self, reference):
        return self.mount(reference, "--hosts-dir", self.hosts)

    def files(self):
        root = images.unpacked(self.image)
        found = []
        for directory, _, names in os.walk(root):
            paths = [os.path.join(directory, name) for name in names]
            found += [os.path.relpath(path, root) for path in paths
                      if os.path.isfile(path) and not os.path.islink(path)]
        return sorted(found)

    def assert_content(self, point, files):
        root = images.unpacked(self.image)
        for name in files:
            self.assertEqual(tree.content_digest(os.path.join(point, name)),
                             tree.content_digest(os.path.join(root, name)), name)


class Mirrors(Hosts):
    """A registry behind mirrors of several kinds; every byte must be right."""

    def mirrored(self, *mirrors):
        text = "".join(f'[host."http://{name}"]\n  capabilities = ["pull"]\n' for name in mirrors)
        self.configure(self.registry.name, text)

    def read_everything(self):
        point = self.mount_with_hosts(self.image_reference)
        self.assert_content(point, self.files())
        status = self.status(point)
        self.assertEqual(status["errors"], 0)
        self.unmount(point)
        return status

    def copy_of_registry(self, name):
        directory = os.path.join(self.directory, f"{self._testMethodName}-{name}")
        os.mkdir(directory)
        storage = os.path.join(directory, "storage")
        shutil.copytree(self.registry.storage, storage)
        copy = Registry(directory, storage=storage)
        self.addCleanup(copy.stop)
        return copy

    def test_mirror_that_is_well_serves_the_bytes(self):
        mirror, direct = self.nginx("mirror"), self.nginx("direct")
        self.configure(self.registry.name, f'server = "http://{direct.name}"\n'
                       f'[host."http://{mirror.name}"]\n  capabilities = ["pull"]\n')
        self.read_everything()
        self.assertGreater(len(mirror.blob_requests()), 0)
        self.assertEqual(direct.blob_requests(), [])
        # Only the other may say what the tag means; each is told which registry is meant.
        self.assertFalse([request for request in mirror.requests() if "/latest" in request.uri])
        self.assertTrue([request for request in direct.requests() if "/latest" in request.uri])
        for request in mirror.requests():
            self.assertIn("ns=" + self.registry.name.replace(":", "%3A"), request.uri)

    def test_mirrors_that_are_down_or_lack_the_blobs(self):
        down = self.nginx("down")
        down.stop()
        directory = self.make_directory("empty")
        empty = Registry(directory)
        self.addCleanup(empty.stop)
        lacks = self.nginx("lacks", upstream=empty.name)
        self.mirrored(down.name, lacks.name)
        self.read_everything()
        self.assertIn("404", {request.status for request in lacks.blob_requests()})

    def test_mirror_that_gives_wrong_bytes(self):
        copy = self.copy_of_registry("copy")
        manifest = self.image.layout.json(self.image.layout.find(self.image.tag)["digest"])
        for layer in manifest["layers"]:
            with open(copy.blob_file(layer["digest"]), "r+b") as file:
                data = file.read()
                file.seek(0)
                file.write(bytes(byte ^ 0x55 for byte in data))
        mirror = self.nginx("mirror", upstream=copy.name)
        self.mirrored(mirror.name)
        status = self.read_everything()
        self.assertGreater(len(mirror.blob_requests()), 0)
        self.assertGreater(status["chunks_damaged"], 0)

    def test_mirror_that_gives_wrong_parts_of_the_index(self):
        copy = self.copy_of_registry("copy")
        inspected = json.loads(self.sluice("inspect", self.image_reference, "--json").stdout)
        index = json.loads(self.client().manifest("small", inspected["index_digest"])[0])
        for part in index["layers"]:
            with open(copy.blob_file(part["digest"]), "r+b") as file:
                file.seek(part["size"] // 2)
                file.write(b"wrong")
                file.truncate(part["size"])
        mirror = self.nginx("mirror", upstream=copy.name)
        self.mirrored(mirror.name)
        self.read_everything()
        self.assertGreater(len(mirror.blob_requests()), 0)
        self.sluice("inspect", "--hosts-dir", self.hosts, self.image_reference)

    def test_mirror_that_is_down_and_a_registry_without_the_referrers_api(self):
        """The mirror's silence, asked after the registry has spoken, is no word against it."""
        down = self.nginx("down")
        down.stop()
        self.configure(self.registry.name, f'[host."http://{down.name}"]\n')
        self.read_everything()

    def test_mirror_that_is_slow(self):
        mirror = self.nginx("mirror", location="limit_rate 1k;")
        self.mirrored(mirror.name)
        self.read_everything()
        self.assertGreater(len(mirror.blob_requests()), 0)

    def test_mirror_that_dies_under_a_mount(self):
        mirror = self.nginx("mirror")
        self.mirrored(mirror.name)
        point = self.mount_with_hosts(self.image_reference)
        files = self.files()
        self.assert_content(point, files[:1])
        self.assertGreater(len(mirror.blob_requests()), 0)
        mirror.stop()
        self.assert_content(point, files)
        self.assertEqual(self.status(point)["errors"], 0)
        self.unmount(point)

    def test_mirror_while_the_registry_is_gone(self):
        mirror = self.nginx("mirror")
        self.configure(self.registry.name, 'server = "http://127.0.0.1:1"\n'
                       f'[host."http://{mirror.name}"]\n  capabilities = ["pull", "resolve"]\n')
        # docker-registry has no Referrers API: the index is under a tag, which the mirror has, too.
        self.read_everything()
        mirror.stop()
        self.fails("inspect", "--hosts-dir", self.hosts, self.image_reference,
                   says=("connection refused; and mirror " + mirror.name,))

    def test_index_is_pushed_past_the_mirror(self):
        mirror = self.nginx("mirror")
        self.mirrored(mirror.name)
        self.sluice("index", "--force", "--hosts-dir", self.hosts, self.image_reference)
        self.assertEqual({request.method for request in mirror.requests()}, {"GET"})
        self.sluice("inspect", self.image_reference)

    def test_settings_that_are_wrong(self):
        self.configure(self.registry.name, "server = https")
        for command in ("index", "inspect"):
            self.fails(command, "--hosts-dir", self.hosts, self.image_reference,
                       says=("hosts.toml' line 1",))
        self.fails("inspect", "--hosts-dir", "/nowhere", self.image_reference, says=("/nowhere",))


class Certificates(Hosts):
    """Who is trusted, and whom the server trusts."""

    def assert_serves(self, server, **options):
        reference = f"{server.name}/small:latest"
        point = self.mount(reference, "--hosts-dir", self.hosts, **options)
        self.assert_content(point, self.files())
        self.unmount(point)

    def test_authority_of_ones_own(self):
        server = self.nginx(certificate=self.server_certificate)
        directory = self.configure(server.name, f'server = "https://{server.name}"\n')
        reference = f"{server.name}/small:latest"
        self.fails("inspect", "--hosts-dir", self.hosts, reference, says=("TLS", "certificate"))
        shutil.copy(self.authority.certificate, os.path.join(directory, "own.crt"))
        self.configure(server.name, f'server = "https://{server.name}"\nca = "own.crt"\n')
        self.assert_serves(server)
        # As docker has it: no hosts.toml.
        os.unlink(os.path.join(directory, "hosts.toml"))
        self.assert_serves(server)
        os.unlink(os.path.join(directory, "own.crt"))
        self.configure(server.name, f'server = "https://{server.name}"\nskip_verify = true\n')
        self.assert_serves(server)

    def test_client_certificate(self):
        server = self.nginx(certificate=self.server_certificate,
                            clients=self.authority.certificate)
        directory = self.configure(server.name, f'ca = "{self.authority.certificate}"\n')
        self.fails("inspect", "--hosts-dir", self.hosts, f"{server.name}/small:latest",
                   says=(server.name, "400"))
        certificate, key = self.authority.issue("client")
        self.configure(server.name, f'ca = "{self.authority.certificate}"\n'
                                    f'client = [["{certificate}", "{key}"]]\n')
        self.assert_serves(server)
        os.unlink(os.path.join(directory, "hosts.toml"))
        shutil.copy(self.authority.certificate, os.path.join(directory, "own.crt"))
        shutil.copy(certificate, os.path.join(directory, "client.cert"))
        shutil.copy(key, os.path.join(directory, "client.key"))
        self.assert_serves(server)

    def test_environment(self):
        server = self.nginx(certificate=self.server_certificate)
        # By this name it is no loopback registry: TLS, and proxies.
        name = f"0.0.0.0:{server.port}"
        proxy = ConnectProxy()
        self.addCleanup(proxy.close)
        reference = f"{name}/small:latest"
        self.fails("inspect", reference, says=("TLS", "certificate"))
        trusted = {"SSL_CERT_FILE": self.authority.certificate}
        self.sluice("inspect", reference, environment=trusted)
        self.assertEqual(proxy.connects, [])
        proxied = {**trusted, "HTTPS_PROXY": proxy.url}
        self.sluice("inspect", reference, environment=proxied)
        self.assertEqual(set(proxy.connects), {name})
        connects = len(proxy.connects)
        self.sluice("inspect", reference, environment={**proxied, "NO_PROXY": "0.0.0.0"})
        self.sluice("inspect", self.image_reference, environment=proxied)
        self.assertEqual(len(proxy.connects), connects)


class Protocols(Hosts):
    """HTTP/2 where the server has it, else HTTP/1.1."""

    def setUp(self):
        super().setUp()
        self.image, _ = images.python_images()
        self.push(self.image.layout, self.image.tag, "python")
        self.sluice("index", self.reference("python"))

    def read_at_once(self, server):
        """Reads every file of the image by many threads; the requests for bytes that this took."""
        self.configure(server.name, f'ca = "{self.authority.certificate}"\n')
        point = self.mount_with_hosts(f"{server.name}/python:latest")
        files = self.files()
        threads = [threading.Thread(target=self.assert_content, args=(point, files[i::16]))
                   for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(self.status(point)["errors"], 0)
        self.unmount(point)
        return [request for request in server.blob_requests() if request.status == "206"]

    def test_http2_takes_few_connections(self):
        requests = self.read_at_once(self.nginx(certificate=self.server_certificate, http2=True))
        self.assertEqual({request.protocol for request in requests}, {"HTTP/2.0"})
        self.assertGreater(len(requests), 10)
        self.assertLessEqual(len({request.connection for request in requests}), 2)

    def test_http1_where_there_is_no_other(self):
        requests = self.read_at_once(self.nginx(certificate=self.server_certificate))
        self.assertEqual({request.protocol for request in requests}, {"HTTP/1.1"})
        self.assertLessEqual(len({request.connection for request in requests}), 8)
