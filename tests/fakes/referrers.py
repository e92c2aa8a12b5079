"""Registries in ways that Debian's docker-registry cannot be: with the Referrers API, and with
somebody else who writes the list of referrers at the same moment. Both pass everything else on to a
real one."""

import json
import re

from tools.counting_proxy import CountingProxy, ProxyHandler

_REFERRERS = re.compile(r"/v2/(.+)/referrers/(sha256:[0-9a-f]{64})$")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)$")
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"


class _Answer:
    def __init__(self, status, headers):
        self.status = status
        self.headers = headers

    def getheaders(self):
        return list(self.headers.items())

    def getheader(self, name, default=None):
        return self.headers.get(name, default)


class _WithReferrersApi(ProxyHandler):
    def forward(self, proxy, body):
        path = self.path.split("?")[0]
        asked = _REFERRERS.match(path)
        if asked:
            listed = {"schemaVersion": 2, "mediaType": IMAGE_INDEX,
                      "manifests": proxy.referrers.get(asked[2], [])}
            return _Answer(200, {"Content-Type": IMAGE_INDEX}), json.dumps(listed).encode()
        answer, data = super().forward(proxy, body)
        put = _MANIFEST.match(path) if self.command == "PUT" and answer.status == 201 else None
        manifest = json.loads(body) if put else {}
        if "subject" not in manifest:
            return answer, data
        subject = manifest["subject"]["digest"]
        entry = {"mediaType": manifest["mediaType"], "artifactType": manifest["artifactType"],
                 "digest": answer.getheader("Docker-Content-Digest"), "size": len(body)}
        if "annotations" in manifest:
            entry["annotations"] = manifest["annotations"]
        proxy.referrers.setdefault(subject, []).insert(0, entry)
        return _Answer(answer.status, {**dict(answer.getheaders()), "OCI-Subject": subject}), data


class ReferrersApi(CountingProxy):
    """`referrers` holds the lists, by the subject's digest; what came last stands first."""

    def __init__(self, upstream):
        self.referrers = {}
        super().__init__(upstream, _WithReferrersApi)


class _OnlySubject(ProxyHandler):
    def forward(self, proxy, body):
        answer, data = super().forward(proxy, body)
        put = _MANIFEST.match(self.path) if self.command == "PUT" and answer.status == 201 else None
        subject = json.loads(body).get("subject") if put else None
        if subject:
            answer = _Answer(answer.status,
                             {**dict(answer.getheaders()), "OCI-Subject": subject["digest"]})
        return answer, data


class OnlySubject(CountingProxy):
    """Says OCI-Subject and keeps no list."""

    def __init__(self, upstream):
        super().__init__(upstream, _OnlySubject)


class _WithRival(ProxyHandler):
    def forward(self, proxy, body):
        answer, data = super().forward(proxy, body)
        put = _MANIFEST.match(self.path) if self.command == "PUT" else None
        if put and put[2].startswith("sha256-") and proxy.rivals > 0:
            proxy.rivals -= 1
            self.onward.request("PUT", self.path, json.dumps(proxy.rival_list),
                                {"Content-Type": IMAGE_INDEX})
            self.onward.getresponse().read()
        return answer, data


class Rival(CountingProxy):
    """Puts `rival_list` in place of the fallback tag's list after each of the first `rivals`
    writes of it."""

    def __init__(self, upstream, rivals, entry):
        self.rivals = rivals
        self.rival_list = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry]}
        super().__init__(upstream, _WithRival)
