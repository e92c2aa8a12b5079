/* A metadata image that was merged from layers, opened and accepted. */
#ifndef SLUICE_TESTS_UNIT_BUILT_IMAGE_H
#define SLUICE_TESTS_UNIT_BUILT_IMAGE_H

#include "tests/unit/tree_maker.h"

struct fixture {
    struct chain chain;
    struct buffer bytes;
    struct erofs_image image;
};

static inline void build(struct fixture *fixture)
{
    struct error *error = NULL;
    if (merge_layers(fixture->chain.layers, fixture->chain.count, &fixture->bytes, &error) < 0 ||
        erofs_image_open(&fixture->image, fixture->bytes.data, fixture->bytes.length, &error) < 0 ||
        erofs_image_validate(&fixture->image, fixture->chain.lengths,
                             (uint32_t)fixture->chain.count, &error) < 0)
        fail_msg("%s", error_message(error));
}

static inline void build_one(struct fixture *fixture, struct entry_table *layer)
{
    chain_add(&fixture->chain, layer);
    build(fixture);
}

static inline void release(struct fixture *fixture)
{
    chain_free(&fixture->chain);
    buffer_free(&fixture->bytes);
}

#endif
