#include "node/profile_part.h"

#include <stdlib.h>

#include "node/part_fetch.h"

struct profile_layer *profile_layers_of(const struct index_artifact *artifact,
                                        struct chunk_table *const *tables)
{
    struct profile_layer *layers = calloc(artifact->layer_count + 1, sizeof *layers);
    for (size_t i = 0; layers && i < artifact->layer_count; i++) {
        layers[i].table_digest = artifact->layers[i].chunks.content_digest;
        layers[i].chunk_count = tables[i]->chunk_count;
    }
    return layers;
}

/* part_write; index_artifact_decode() has bounded the content's size. */
static int append(void *context, const void *data, size_t length, struct error **error)
{
    return buffer_append(context, data, length) < 0 ? error_set_memory(error) : 0;
}

int profile_part_fetch(struct registry_client *client, const struct repository *repository,
                       const struct index_part *part, struct buffer *ret, struct error **error)
{
    if (part_fetch_buffer(client, repository, part, ret, error) < 0)
        return error_prefix(error, "profile");
    return 0;
}

int profile_part_unpack(const struct index_part *part, const struct buffer *blob,
                        struct buffer *ret, struct error **error)
{
    struct part_decoder *decoder;
    int result = part_decoder_new(&decoder, part, append, ret, NULL, error);
    if (result == 0) {
        result = part_decoder_feed(decoder, blob->data, blob->length, error);
        if (result == 0) result = part_decoder_finish(decoder, error);
        part_decoder_free(decoder);
    }
    return result < 0 ? error_prefix(error, "profile") : 0;
}
