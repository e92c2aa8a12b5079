"""What `sluice index` writes, where it puts it, and how it gets in."""

import concurrent.futures
import json
import os

from tools import images
from tools.counting_proxy import CountingProxy
from tools.layout import IMAGE_INDEX, MANIFEST, Layout
from tools.registry import Registry, htpasswd_auth, token_auth, write_docker_config
from tools.testcase import EndToEnd
from tools.token_server import TokenServer, make_key

ARTIFACT_TYPE = "application/vnd.sluice.index.v1+json"
PASSWORD = "a pass:word with: colons"


def files_of(directory):
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, directory)] = file.read()
    return found


class Index(EndToEnd):
    """Against a docker-registry without the Referrers API."""

    needs_mount = False

    def setUp(self):
        self.image = images.small()
        self.repository = self._testMethodName.replace("_", "-")
        self.image_reference = self.push(self.image.layout, self.image.tag, self.repository)
        self.image_digest = self.image.layout.find(self.image.tag)["digest"]
        self.fallback_tag = self.image_digest.replace(":", "-")

    def referrers(self):
        found = self.client().manifest(self.repository, self.fallback_tag)
        return json.loads(found[0])["manifests"] if found else None

    def test_same_bytes_with_any_number_of_threads(self):
        outputs = []
        for threads in (1, 2, 7):
            output = os.path.join(self.directory, f"output-{threads}")
            self.sluice("index", self.image_reference, "--threads", threads, "--output", output)
            outputs.append(files_of(output))
        self.assertEqual(outputs[0], outputs[1])
        self.assertEqual(outputs[0], outputs[2])

    def test_output_is_an_oci_layout(self):
        output = os.path.join(self.directory, "layout")
        self.sluice("index", self.image_reference, "--output", output)
        layout = Layout(output)
        descriptor, = layout.manifests()
        self.assertEqual(descriptor["artifactType"], ARTIFACT_TYPE)
        manifest = layout.json(descriptor["digest"])
        self.assertEqual(manifest["artifactType"], ARTIFACT_TYPE)
        self.assertEqual(manifest["subject"]["digest"], self.image_digest)
        listed = {part["digest"] for part in manifest["layers"] + [manifest["config"]]}
        there = {"sha256:" + name for name in os.listdir(os.path.join(output, "blobs/sha256"))}
        self.assertEqual(there, listed | {descriptor["digest"]})
        self.assertIsNone(self.referrers(), "nothing is pushed")

    def test_pushed_index_is_what_output_writes(self):
        output = os.path.join(self.directory, "same")
        self.sluice("index", self.image_reference, "--output", output)
        self.sluice("index", self.image_reference)
        listed, = self.referrers()
        self.assertEqual(listed["digest"], Layout(output).manifests()[0]["digest"])
        self.assertEqual(listed["artifactType"], ARTIFACT_TYPE)
        client = self.client()
        for part in Layout(output).json(listed["digest"])["layers"]:
            self.assertTrue(client.has_blob(self.repository, part["digest"]), part)

    def test_image_is_left_as_it_is(self):
        before = self.client().manifest(self.repository, "latest")[0]
        self.sluice("index", self.image_reference)
        self.assertEqual(self.client().manifest(self.repository, "latest")[0], before)

    def test_second_run_changes_nothing(self):
        first = json.loads(self.sluice("index", self.image_reference, "--json").stdout)
        listed = self.referrers()
        proxy = CountingProxy(self.registry.name)
        self.addCleanup(proxy.close)
        through = f"{proxy.name}/{self.repository}:latest"
        second = json.loads(self.sluice("index", through, "--json").stdout)
        self.assertEqual(first["index_digest"], second["index_digest"])
        self.assertEqual((first["already_indexed"], second["already_indexed"]), (False, True))
        self.assertEqual(self.referrers(), listed)
        # Nothing is uploaded again.
        self.assertEqual([request for request in proxy.requests
                          if request.method in ("POST", "PUT", "PATCH")], [])
        self.assertIn("already", self.sluice("index", self.image_reference).stdout)
        forced = json.loads(self.sluice("index", self.image_reference, "--force", "--json").stdout)
        self.assertEqual((forced["index_digest"], forced["bytes_pushed"]),
                         (first["index_digest"], 0))

    def test_several_at_once(self):
        """The registry itself refuses some pushes that meet each other."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            runs = [pool.submit(self.sluice, "index", self.image_reference, "--force", "--json")
                    for _ in range(4)]
        indexes = {json.loads(run.result().stdout)["index_digest"] for run in runs}
        self.assertEqual([entry["digest"] for entry in self.referrers()], list(indexes))

    def test_foreign_referrers_are_kept(self):
        client = self.client()
        foreign = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x.signature",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": self.image.layout.json(self.image_digest)["config"]["digest"],
                       "size": self.image.layout.json(self.image_digest)["config"]["size"]},
            "layers": [], "subject": {**self.image.layout.find(self.image.tag)},
        }).encode()
        client.push_manifest(self.repository, "signature", MANIFEST, foreign)
        digest = client.manifest_digest(self.repository, "signature")
        entry = {"mediaType": MANIFEST, "digest": digest, "size": len(foreign),
                 "artifactType": "application/x.signature", "annotations": {"kept": "yes"}}
        client.push_manifest(self.repository, self.fallback_tag, IMAGE_INDEX, json.dumps(
            {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry]}).encode())
        for _ in range(2):
            self.sluice("index", self.image_reference)
            self.assertIn(entry, self.referrers())
            self.assertEqual(len(self.referrers()), 2)

    def test_index_by_digest(self):
        by_digest = f"{self.registry.name}/{self.repository}@{self.image_digest}"
        self.sluice("index", by_digest)
        self.assertEqual(len(self.referrers()), 1)
        self.sluice("inspect", by_digest)

    def test_inspect_tells_what_the_index_holds(self):
        made = json.loads(self.sluice("index", self.image_reference, "--json").stdout)
        told = json.loads(self.sluice("inspect", self.image_reference, "--json").stdout)
        self.assertEqual(told["index_digest"], made["index_digest"])
        self.assertEqual(told["manifest_digest"], self.image_digest)
        self.assertEqual([layer["digest"] for layer in told["layers"]],
                         [layer["digest"]
                          for layer in self.image.layout.json(self.image_digest)["layers"]])
        text = self.sluice("inspect", self.image_reference).stdout
        self.assertIn(made["index_digest"], text)

    def test_progress_is_plain_lines_without_a_terminal(self):
        done = self.sluice("index", self.image_reference)
        for text in (done.stdout, done.stderr):
            self.assertNotIn("\r", text)
            self.assertNotIn("\033", text)


class Platforms(EndToEnd):
    """An image index picks by --platform."""

    def setUp(self):
        image = images.multi_platform()
        self.image_reference = self.push(image.layout, image.tag, "multi")

    def platform_seen(self, *options):
        self.sluice("index", self.image_reference, *options)
        point = self.mount(self.image_reference, *options,
                           cache=os.path.join(self.directory, "cache-" + "".join(options)
                                              .replace("/", "-")), name="-".join(options)
                           .replace("/", "-") or "host")
        with open(os.path.join(point, "platform"), encoding="ascii") as file:
            return file.read()

    def test_each_platform(self):
        self.assertEqual(self.platform_seen("--platform", "linux/arm64"), "arm64")
        self.assertEqual(self.platform_seen("--platform", "linux/arm64/v8"), "arm64")
        self.assertEqual(self.platform_seen("--platform", "linux/amd64"), "amd64")

    def test_this_machine_is_the_default(self):
        expected = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        self.assertEqual(self.platform_seen(), expected)

    def test_image_of_another_platform(self):
        """Taken as it is, unless it was asked for as something else."""
        name = self.image_reference.rsplit(":", 1)[0]
        index = json.loads(self.client().manifest(name.split("/", 1)[1], "latest")[0])
        arm = next(entry["digest"] for entry in index["manifests"]
                   if entry["platform"]["architecture"] == "arm64")
        single = f"{name}@{arm}"
        self.sluice("index", single)
        point = self.make_directory("other")
        for command in (("index", single), ("inspect", single),
                        ("mount", single, point, "--cache", self.cache)):
            self.fails(*command, "--platform", "linux/amd64",
                       says=("linux/amd64", "linux/arm64", "--platform"))
        self.unmount(self.mount(single))
        # What the node has learned by then makes no difference.
        self.fails("mount", single, point, "--cache", self.cache, "--platform", "linux/amd64",
                   says=("linux/arm64",))
        self.unmount(self.mount(single, "--platform", "linux/arm64"))

    def test_platform_that_is_not_there(self):
        self.fails("index", self.image_reference, "--platform", "linux/s390x",
                   says=("linux/s390x", "linux/amd64", "linux/arm64"))


class BasicAuthentication(EndToEnd):
    """htpasswd at the registry; credentials from the docker configuration or a helper."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = os.path.join(cls.directory, "private")
        os.mkdir(directory)
        cls.private = Registry(directory, htpasswd_auth(directory, "alice", PASSWORD))
        cls.addClassCleanup(cls.private.stop)

    def setUp(self):
        image = images.small()
        self.image_reference = self.push(image.layout, image.tag, self._testMethodName,
                                         registry=self.private, credentials=("alice", PASSWORD))

    def index_mount_read(self, environment):
        self.sluice("index", self.image_reference, environment=environment)
        point = self.mount(self.image_reference, environment=environment,
                           cache=os.path.join(self.directory, self._testMethodName + "-cache"))
        with open(os.path.join(point, "lower/text"), "rb") as file:
            self.assertEqual(len(file.read()), 5 << 20)

    def test_docker_config(self):
        self.index_mount_read({"DOCKER_CONFIG": write_docker_config(
            self.directory, self.private.name, "alice", PASSWORD)})

    def test_credential_helper(self):
        programs = self.make_directory("programs")
        asked = os.path.join(programs, "asked")
        helper = os.path.join(programs, "docker-credential-tests")
        answer = json.dumps({"ServerURL": self.private.name, "Username": "alice",
                             "Secret": PASSWORD})
        with open(helper, "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\n[ \"$1\" = get ] || exit 1\ncat >> '{asked}'\n"
                       f"cat <<'END'\n{answer}\nEND\n")
        os.chmod(helper, 0o755)
        config = write_docker_config(self.directory, self.private.name, helper="tests")
        self.index_mount_read({"DOCKER_CONFIG": config,
                               "PATH": programs + ":" + os.environ["PATH"]})
        with open(asked, encoding="ascii") as file:
            self.assertIn(self.private.name, file.read())

    def test_broken_credential_helper(self):
        config = write_docker_config(self.directory, self.private.name, helper="not-there")
        self.fails("index", self.image_reference, says=("docker-credential-not-there",),
                   environment={"DOCKER_CONFIG": config})


class TokenAuthentication(EndToEnd):
    """A token server: anonymous pull, push with a password."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        key, certificate = make_key(cls.directory)
        cls.issuer = TokenServer(key, certificate, "bob", PASSWORD)
        cls.addClassCleanup(cls.issuer.close)
        # The test's own pushes go to an open registry on the same storage.
        directory = os.path.join(cls.directory, "guarded")
        os.mkdir(directory)
        cls.guarded = Registry(directory, token_auth(certificate, cls.issuer.realm),
                               cls.registry.storage)
        cls.addClassCleanup(cls.guarded.stop)

    def setUp(self):
        image = images.small()
        self.push(image.layout, image.tag, "small")
        self.image_reference = self.reference("small", registry=self.guarded)
        self.issuer.asked.clear()

    def index(self):
        config = write_docker_config(self.directory, self.guarded.name, "bob", PASSWORD)
        self.sluice("index", self.image_reference, environment={"DOCKER_CONFIG": config})

    def test_push_with_a_password_and_anonymous_mount(self):
        self.index()
        self.assertIn("bob", {user for _, user in self.issuer.asked})
        self.issuer.asked.clear()
        point = self.mount(self.image_reference)
        with open(os.path.join(point, "lower/text"), "rb") as file:
            self.assertEqual(len(file.read()), 5 << 20)
        self.assertEqual({user for _, user in self.issuer.asked}, {None})
        # A token is kept and used again, not asked for with each request.
        self.assertLessEqual(len(self.issuer.asked), 3)

    def test_anonymous_push_is_refused(self):
        self.fails("index", self.image_reference, says=(self.guarded.name, "login"))


class Redirects(EndToEnd):
    """Blobs that live on another host, as object stores have it."""

    def test_blobs_behind_a_redirect(self):
        store = CountingProxy(self.registry.name)
        self.addCleanup(store.close)
        front = CountingProxy(self.registry.name)
        self.addCleanup(front.close)
        front.redirect_blobs_to = store.name
        image = images.small()
        self.push(image.layout, image.tag, "small")
        reference = f"{front.name}/small:latest"
        config = write_docker_config(self.directory, front.name, "carol", PASSWORD)
        environment = {"DOCKER_CONFIG": config}
        done = self.sluice("-v", "index", reference, environment=environment)
        point = self.mount(reference, "-v", environment=environment)
        with open(os.path.join(point, "lower/text"), "rb") as file:
            self.assertEqual(len(file.read()), 5 << 20)
        self.assertGreater(store.blob_bytes(), 0)
        for headers in store.headers_seen:
            self.assertNotIn("Authorization", headers)
        # The signature in a redirect is a secret.
        for text in (done.stderr, self.mount_output.stderr):
            self.assertNotIn("s3cr3t", text)
