"""Where a node's credentials come from: pulls by CRI, and kubelet's credential providers."""

import base64
import os
import shutil
import tempfile

import grpc

from tools import container_images
from tools.container_images import PROGRAM
from tools.registry import Registry, htpasswd_auth, write_docker_config
from tools.services import Service, connect
from tools.sluiced import Sluiced
from tools.node import Node

USER, FIRST, SECOND = "puller", "the first password", "the second password"

_CONFIGURATION = """\
[log]
level = "debug"
[lazy]
fill = "off"
[credentials]
image_service = "{sockets}/images.sock"
containerd = "{sockets}/containerd.sock"
provider_config = "{programs}/providers.yaml"
provider_directory = "{programs}"
"""
_PROVIDERS = """\
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: tests-credential-provider
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages: ["{registry}/provided"]
    defaultCacheDuration: 1h
    env: [{{name: PLACE, value: "{programs}"}}]
"""
_PROVIDER = """\
#!/bin/sh
cat > /dev/null
echo run >> "$PLACE/runs"
cat "$PLACE/answer"
"""
_ANSWER = """\
{{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
  "cacheKeyType": "Registry", "auth": {{
    "{registry}": {{"username": "{user}", "password": "{password}"}}}}}}
"""


class PrivateRegistry(Node):
    """It wants a password, which changes while containers run. Each class has a cache of its own."""

    snapshotter = "sluice"

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.private_directory = os.path.join(cls.directory, "private")
        os.mkdir(cls.private_directory)
        cls.private = Registry(cls.private_directory,
                               htpasswd_auth(cls.private_directory, USER, FIRST))
        cls.addClassCleanup(cls.private.stop)
        cls.programs = os.path.join(cls.directory, "programs")
        os.mkdir(cls.programs)
        cls.write_providers()
        cls.sockets = tempfile.mkdtemp(prefix="sluice-images-", dir="/tmp")
        cls.addClassCleanup(shutil.rmtree, cls.sockets)
        directory = os.path.join(cls.directory, "sluiced")
        os.mkdir(directory)
        cls.sluiced = Sluiced(directory, environment=cls.environment, more=_CONFIGURATION.format(
            sockets=cls.sockets, programs=cls.programs))
        cls.addClassCleanup(cls.sluiced.stop)
        super().start_daemons({"sluice": cls.sluiced.address})
        os.symlink(cls.containerd.address, os.path.join(cls.sockets, "containerd.sock"))

    @classmethod
    def write_providers(cls):
        def write(name, text, mode=0o644):
            path = os.path.join(cls.programs, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(path, mode)

        write("providers.yaml", _PROVIDERS.format(registry=cls.private.name, programs=cls.programs))
        write("tests-credential-provider", _PROVIDER, 0o755)

    def provide(self, password):
        with open(os.path.join(self.programs, "answer"), "w", encoding="utf-8") as file:
            file.write(_ANSWER.format(registry=self.private.name, user=USER, password=password))

    def setUp(self):
        super().setUp()
        self.set_password(FIRST)
        channel = connect(os.path.join(self.sockets, "images.sock"))
        self.addCleanup(channel.close)
        self.images = Service(channel, self.cri.definitions, "runtime.v1.ImageService")

    def set_password(self, password):
        self.private.stop()
        self.private.auth = htpasswd_auth(self.private_directory, USER, password)
        self.private.start()

    def push_and_index(self, repository):
        image = container_images.chain()[3]
        reference = self.push(image.layout, image.tag, repository, registry=self.private,
                              credentials=(USER, FIRST))
        config = write_docker_config(self.directory, self.private.name, USER, FIRST)
        self.sluice("index", reference, environment={"DOCKER_CONFIG": config})
        return reference

    def pull(self, reference, password):
        return self.images.call("PullImage", image={"image": reference},
                                auth={"username": USER, "password": password}).image_ref

    def shows(self, container, layer):
        """Whether a file of a layer can be read, which is then right."""
        code, text = self.cri.execute(container, PROGRAM, "show", f"/layer-{layer}/07")
        if code == 0:
            self.assertEqual(text, f"7 of layer {layer}\n" * 500)
        return code == 0

    def start(self, reference):
        container = self.cri.start(self.pod(), "lives", reference, PROGRAM, "pause")
        mounts = os.path.join(self.sluiced.root, "lazy")
        self.assertTrue(os.listdir(mounts), "the image is mounted lazily")
        self.assertTrue(self.shows(container, 1))
        return container

    def assert_no_secret(self):
        """In what the daemon tells and keeps."""
        status = self.sluice("status", "--json").stdout
        texts = [self.sluiced.log(), status]
        for directory, _, names in os.walk(self.sluiced.root):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.isfile(path) and "/lazy/" not in path:
                    with open(path, "rb") as file:
                        texts.append(file.read().decode("latin-1"))
        for password in (FIRST, SECOND):
            for secret in (password, base64.b64encode(f"{USER}:{password}".encode()).decode()):
                self.assertFalse([text for text in texts if secret in text], "a secret is told")


class PullSecrets(PrivateRegistry):
    """They come by kubelet's image service."""

    def test_secrets_of_a_pull(self):
        reference = self.push_and_index("pulled")
        with self.assertRaises(grpc.RpcError):
            self.pull(reference, "wrong")
        self.pull(reference, FIRST)
        container = self.start(reference)
        # Another pod's wrong secret takes nothing from those who have the right one.
        with self.assertRaises(grpc.RpcError):
            self.pull(reference, "wrong")
        self.assertTrue(self.shows(container, 2))
        self.set_password(SECOND)
        self.assertFalse(self.shows(container, 3), "nobody knows the new password")
        self.assertTrue(self.shows(container, 2), "what is here needs no password")
        self.pull(reference, SECOND)
        self.wait_until(lambda: self.shows(container, 3), "what is not here can be read again")
        self.assertIn(reference, [tag for image in self.images.call("ListImages").images
                                  for tag in image.repo_tags])
        self.assert_no_secret()

    def test_containerd_starts_anew(self):
        before = len(self.images.call("ListImages").images)
        self.containerd.stop()
        with self.assertRaises(grpc.RpcError) as refused:
            self.images.call("ListImages")
        self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.cri.close()
        self.containerd.start()
        self.cri.connect()
        self.wait_until(lambda: len(self.images.call("ListImages").images) == before,
                        "calls are passed on again")


class CredentialProviders(PrivateRegistry):
    """As kubelet is configured with them."""

    def test_provider(self):
        reference = self.push_and_index("provided")
        self.provide(FIRST)
        self.cri.pull(reference, username=USER, password=FIRST)  # sluiced does not hear of it
        container = self.start(reference)
        self.set_password(SECOND)
        self.assertFalse(self.shows(container, 3), "the provider does not know the new password")
        self.provide(SECOND)
        self.wait_until(lambda: self.shows(container, 3), "the provider is asked again")
        # Where it knows the new one in time, no reader notices.
        self.provide(FIRST)
        self.set_password(FIRST)
        self.assertTrue(self.shows(container, 2))
        self.assert_no_secret()


class PullSecretsNewer(PullSecrets):
    """containerd 2.x."""

    newer = True
