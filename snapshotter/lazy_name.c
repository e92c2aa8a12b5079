#include <stdlib.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fetcher/reference.h"
#include "snapshotter/lazy_images-internal.h"

/* "registry/repository@manifest", which asks nobody what it means. */
static char *with_manifest(const struct image_reference *reference, const struct digest *manifest,
                           struct error **error)
{
    char digest[DIGEST_TEXT_SIZE];
    char *text = format_text("%s/%s@%s", reference->registry, reference->repository,
                             digest_format(manifest, digest));
    if (!text) error_set_memory(error);
    return text;
}

char *lazy_name_of_layer(const struct lazy_layer *layer, struct error **error)
{
    struct image_reference reference;
    if (image_reference_parse(&reference, layer->image_name, error) < 0) return NULL;
    char *text;
    if (layer->has_manifest)
        text = with_manifest(&reference, &layer->manifest, error);
    else if (!(text = image_reference_format(&reference)))
        error_set_memory(error);
    image_reference_free(&reference);
    return text;
}

char *lazy_name_pin(struct lazy_images *images, const char *name, uint64_t timeout_ms,
                    struct error **error)
{
    /* Without a mount point it is only looked at, and the number means nothing. */
    const struct node_image_request request = {
        .id = 1,
        .image = { .reference = name,
                   .least_trust = images->config->lazy.trust,
                   .front = images->config->lazy.front,
                   .no_profile = true,
                   .fill = FILL_OFF },
    };
    struct node_image_answer answer;
    struct image_reference reference;
    if (image_reference_parse(&reference, name, error) < 0) return NULL;
    char *text = NULL;
    if (node_client_open(images->node, &request, (unsigned)timeout_ms, &answer, error) == 0) {
        text = with_manifest(&reference, &answer.manifest, error);
        node_image_answer_free(&answer);
    }
    image_reference_free(&reference);
    return text;
}
