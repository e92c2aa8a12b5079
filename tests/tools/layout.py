"""OCI image layouts on disk: https://github.com/opencontainers/image-spec/blob/main/image-layout.md"""

import hashlib
import json
import os
import shutil

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


def digest_of_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


class Layout:
    """A layout that may exist already; tags are the annotations of index.json."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(os.path.join(directory, "blobs", "sha256"), exist_ok=True)
        marker = os.path.join(directory, "oci-layout")
        if not os.path.exists(marker):
            self._write_json(marker, {"imageLayoutVersion": "1.0.0"})
            self._write_index([])

    def _write_json(self, path, value):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file)

    def _write_index(self, manifests):
        self._write_json(os.path.join(self.directory, "index.json"),
                         {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": manifests})

    def blob_path(self, digest):
        algorithm, name = digest.split(":")
        return os.path.join(self.directory, "blobs", algorithm, name)

    def blob(self, digest):
        with open(self.blob_path(digest), "rb") as file:
            return file.read()

    def json(self, digest):
        return json.loads(self.blob(digest))

    def manifests(self):
        with open(os.path.join(self.directory, "index.json"), encoding="utf-8") as file:
            return json.load(file)["manifests"]

    def add_blob(self, data, media_type):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        with open(self.blob_path(digest), "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def add_file(self, path, media_type):
        digest = digest_of_file(path)
        if not os.path.exists(self.blob_path(digest)):
            shutil.copyfile(path, self.blob_path(digest))
        return {"mediaType": media_type, "digest": digest, "size": os.path.getsize(path)}

    def add_json(self, value, media_type):
        return self.add_blob(json.dumps(value).encode(), media_type)

    def add_image(self, layers, tag=None, platform=None, command=None):
        """`layers`: (tar path, blob path, media type), lowest first. Returns the descriptor."""
        platform = platform or {"os": "linux", "architecture": "amd64"}
        config = self.add_json({
            **platform,
            "config": {"Cmd": command or ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of_file(tar) for tar, _, _ in layers]},
        }, CONFIG)
        manifest = self.add_json({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [self.add_file(blob, media_type) for _, blob, media_type in layers],
        }, MANIFEST)
        if tag:
            self.tag(manifest, tag)
        return manifest

    def add_image_index(self, manifests, tag):
        """`manifests`: (descriptor, platform)."""
        listed = [{**manifest, "platform": platform} for manifest, platform in manifests]
        index = self.add_json({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": listed},
                              IMAGE_INDEX)
        self.tag(index, tag)
        return index

    def tag(self, descriptor, tag):
        others = [known for known in self.manifests() if self.tag_of(known) != tag]
        annotated = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}}
        self._write_index(others + [annotated])

    @staticmethod
    def tag_of(descriptor):
        return descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name")

    def find(self, tag):
        for descriptor in self.manifests():
            if self.tag_of(descriptor) == tag:
                return descriptor
        raise KeyError(tag)
