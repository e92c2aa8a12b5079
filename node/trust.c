#include "node/trust.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"

const char *index_trust_name(enum index_trust trust)
{
    return trust == TRUST_PINNED ? "pinned" : "referrer";
}

int index_trust_parse(enum index_trust *ret, const char *text, struct error **error)
{
    for (enum index_trust trust = TRUST_REFERRER; trust <= TRUST_PINNED; trust++) {
        if (strcmp(text, index_trust_name(trust)) != 0) continue;
        *ret = trust;
        return 0;
    }
    return error_set(error, ERROR_INVALID, "'%s' is neither 'pinned' nor 'referrer'", text);
}

int index_choose(const struct image *image, struct registry_client *client,
                 const struct digest *pinned, const struct digest *known, struct chosen_index *ret,
                 struct error **error)
{
    const struct image_manifest *manifest = &image->manifest;
    if (pinned || manifest->names_index) {
        *ret = (struct chosen_index){ pinned ? *pinned : manifest->index, TRUST_PINNED };
        return 0;
    }
    ret->trust = TRUST_REFERRER;
    if (known) {
        ret->digest = *known;
        return 0;
    }
    int found = image_find_index(image, client, &ret->digest, error);
    if (found == 0) return image_without_index(image, error);
    return found < 0 ? -1 : 0;
}

int index_trust_require(const struct image *image, const struct chosen_index *chosen,
                        enum index_trust least, struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    if (chosen->trust >= least) return 0;
    error_set(error, ERROR_DENIED,
              "image %s: its index %s was only found beside it, and an index that is %s was asked "
              "for",
              image->name, digest_format(&chosen->digest, text), index_trust_name(least));
    return error_hint(error, "pin one with --index DIGEST, or mount an image that names its index "
                             "('sluice index --annotate')");
}

/* ---- what was found to lie ---- */

/* An image's config may be what lies, so what contradicts it is refused for this image only. */
static struct digest pair_of(const struct image *image, const struct digest *index)
{
    const struct digest pair[2] = { image->digest, *index };
    struct digest ret;
    digest_of(pair, sizeof pair, &ret);
    return ret;
}

int index_refuse(struct cache *cache, const struct image *image, const struct digest *index,
                 bool of_image, const char *reason, struct error **error)
{
    const struct digest pair = pair_of(image, index);
    return cache_refuse(cache, of_image ? &pair : index, reason, error);
}

char *index_refusal(struct cache *cache, const struct image *image, const struct digest *index)
{
    const struct digest pair = pair_of(image, index);
    char *reason = cache_refusal(cache, index);
    return reason ? reason : cache_refusal(cache, &pair);
}

int index_require_truth(struct cache *cache, const struct image *image, const struct digest *index,
                        bool force, struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    cleanup_free char *reason = index_refusal(cache, image, index);
    if (!reason) return 0;
    digest_format(index, text);
    if (force) {
        log_about(LOG_WARNING, image->name,
                  "image %s: its index %s does not tell the truth (%s); using it all the same",
                  image->name, text, reason);
        return 0;
    }
    error_set(error, ERROR_DENIED, "image %s: its index %s was found not to tell the truth (%s)",
              image->name, text, reason);
    return error_hint(error,
                      "make a new one with: sluice index --force %s; or mount with --force, if you "
                      "know better",
                      image->name);
}

void index_end_refusal(struct cache *cache, const struct image *image, const struct digest *index)
{
    const struct digest pair = pair_of(image, index);
    cache_end_refusal(cache, index);
    cache_end_refusal(cache, &pair);
}
