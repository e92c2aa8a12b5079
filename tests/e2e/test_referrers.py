"""How an index is attached to its image, and found."""

import json

from fakes.referrers import OnlySubject, ReferrersApi, Rival
from tools import images
from tools.testcase import EndToEnd

ARTIFACT_TYPE = "application/vnd.sluice.index.v1+json"


class Referrers(EndToEnd):
    needs_mount = False

    def setUp(self):
        self.image = images.small()
        self.repository = self._testMethodName.replace("_", "-")
        self.push(self.image.layout, self.image.tag, self.repository)
        self.descriptor = self.image.layout.find(self.image.tag)
        self.fallback_tag = self.descriptor["digest"].replace(":", "-")

    def through(self, proxy):
        self.addCleanup(proxy.close)
        return f"{proxy.name}/{self.repository}:latest"

    def fallback_list(self):
        found = self.client().manifest(self.repository, self.fallback_tag)
        return json.loads(found[0])["manifests"] if found else None

    def test_the_referrers_api_is_used_where_there_is_one(self):
        proxy = ReferrersApi(self.registry.name)
        reference = self.through(proxy)
        made = json.loads(self.sluice("index", reference, "--json").stdout)
        listed, = proxy.referrers[self.descriptor["digest"]]
        self.assertEqual(listed["digest"], made["index_digest"])
        self.assertIsNone(self.fallback_list(), "no tag where the API keeps the list")
        told = json.loads(self.sluice("inspect", reference, "--json").stdout)
        self.assertEqual(told["index_digest"], made["index_digest"])
        again = json.loads(self.sluice("index", reference, "--json").stdout)
        self.assertTrue(again["already_indexed"])

    def test_a_registry_that_only_says_it_keeps_the_list(self):
        reference = self.through(OnlySubject(self.registry.name))
        made = json.loads(self.sluice("index", reference, "--json").stdout)
        listed, = self.fallback_list()
        self.assertEqual(listed["digest"], made["index_digest"])
        told = json.loads(self.sluice("inspect", reference, "--json").stdout)
        self.assertEqual(told["index_digest"], made["index_digest"])

    def test_an_entry_that_somebody_else_overwrote_is_written_again(self):
        rival_entry = {**self.descriptor, "artifactType": "application/x.rival"}
        proxy = Rival(self.registry.name, 2, rival_entry)
        made = json.loads(self.sluice("index", self.through(proxy), "--json").stdout)
        self.assertEqual(proxy.rivals, 0)
        types = {entry["artifactType"]: entry["digest"] for entry in self.fallback_list()}
        self.assertEqual(types, {"application/x.rival": self.descriptor["digest"],
                                 ARTIFACT_TYPE: made["index_digest"]})

    def test_a_list_that_is_overwritten_for_ever_is_an_error(self):
        rival_entry = {**self.descriptor, "artifactType": "application/x.rival"}
        proxy = Rival(self.registry.name, 1000, rival_entry)
        self.fails("index", self.through(proxy), says=(self.fallback_tag, "run the command again"))
