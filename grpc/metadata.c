#include "grpc/metadata.h"

#include <stdlib.h>
#include <string.h>

/* https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Custom-Metadata" */
static int is_name(const uint8_t *name, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        uint8_t c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.'))
            return 0;
    }
    return length > 0;
}

static int is_value(const uint8_t *value, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (value[i] < 0x20 || value[i] > 0x7e) return 0;
    }
    return 1;
}

int grpc_metadata_add(struct grpc_metadata *metadata, const uint8_t *name, size_t name_length,
                      const uint8_t *value, size_t value_length)
{
    if (metadata->count >= GRPC_METADATA_COUNT || name_length > GRPC_METADATA_BYTES ||
        value_length > GRPC_METADATA_BYTES ||
        metadata->bytes + name_length + value_length > GRPC_METADATA_BYTES)
        return -1;
    if (!is_name(name, name_length) || !is_value(value, value_length)) return -1;
    struct grpc_metadatum *entries =
        realloc(metadata->entries, (metadata->count + 1) * sizeof *entries);
    if (!entries) return -1;
    metadata->entries = entries;
    struct grpc_metadatum made = { strndup((const char *)name, name_length),
                                   strndup((const char *)value, value_length) };
    if (!made.name || !made.value) {
        free(made.name);
        free(made.value);
        return -1;
    }
    entries[metadata->count++] = made;
    metadata->bytes += name_length + value_length;
    return 0;
}

const char *grpc_metadata_find(const struct grpc_metadata *metadata, const char *name)
{
    for (size_t i = 0; i < metadata->count; i++) {
        if (strcmp(metadata->entries[i].name, name) == 0) return metadata->entries[i].value;
    }
    return NULL;
}

void grpc_metadata_free(struct grpc_metadata *metadata)
{
    for (size_t i = 0; i < metadata->count; i++) {
        free(metadata->entries[i].name);
        free(metadata->entries[i].value);
    }
    free(metadata->entries);
    *metadata = (struct grpc_metadata){ 0 };
}
