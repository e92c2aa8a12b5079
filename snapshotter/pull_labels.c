#include "snapshotter/pull_labels.h"

#include <stddef.h>

struct vocabulary {
    const char *image, *manifest, *layer;
};

static const struct vocabulary vocabularies[] = {
    { "containerd.io/snapshot/cri.image-ref", "containerd.io/snapshot/cri.manifest-digest",
      "containerd.io/snapshot/cri.layer-digest" },
    { "containerd.io/snapshot/remote/stargz.reference", NULL,
      "containerd.io/snapshot/remote/stargz.digest" },
};

static bool get_digest(const struct labels *labels, const char *key, struct digest *ret)
{
    const char *text = key ? labels_get(labels, key) : NULL;
    return text && digest_parse(ret, text, NULL) == 0;
}

static bool read_words(const struct vocabulary *words, const struct labels *labels,
                       struct lazy_layer *ret)
{
    ret->image_name = labels_get(labels, words->image);
    if (!ret->image_name || !get_digest(labels, words->layer, &ret->layer)) return false;
    ret->has_manifest = get_digest(labels, words->manifest, &ret->manifest);
    return true;
}

/* A chain ID has the form of a digest. */
static bool get_chain_id(const struct labels *labels, const char **ret)
{
    struct digest unused;
    *ret = labels_get(labels, LABEL_SNAPSHOT_REF);
    return *ret && digest_parse(&unused, *ret, NULL) == 0;
}

bool pull_labels_read(const struct labels *labels, const struct labels *parent,
                      struct lazy_layer *ret)
{
    *ret = (struct lazy_layer){ .labels = labels };
    if (!get_chain_id(labels, &ret->chain_id)) return false;
    if (parent && !get_chain_id(parent, &ret->parent_chain_id)) return false;
    for (size_t i = 0; i < sizeof vocabularies / sizeof *vocabularies; i++)
        if (read_words(&vocabularies[i], labels, ret)) return true;
    return false;
}
