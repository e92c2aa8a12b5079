#include "deploytool/trust.h"

#include <string.h>

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
