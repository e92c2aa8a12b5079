/* What a gRPC call carries beside its message: names and values of HTTP headers. */
#ifndef SLUICE_GRPC_METADATA_H
#define SLUICE_GRPC_METADATA_H

#include <stddef.h>
#include <stdint.h>

/* A zeroed struct is empty. */
struct grpc_metadata {
    struct grpc_metadatum {
        char *name, *value; /* owned; the name in lower case, the value of visible ASCII */
    } * entries;
    size_t count;
    size_t bytes; /* of names and values */
};

enum {
    GRPC_METADATA_COUNT = 64,
    GRPC_METADATA_BYTES = 16384,
};

/* Copies one. 0; -1 when it is no proper header, or there would be too many, or memory is short. */
int grpc_metadata_add(struct grpc_metadata *metadata, const uint8_t *name, size_t name_length,
                      const uint8_t *value, size_t value_length);
/* The first value of that name, or NULL. */
const char *grpc_metadata_find(const struct grpc_metadata *metadata, const char *name);
void grpc_metadata_free(struct grpc_metadata *metadata);

#endif
