/*
 * Fed: an image's name, as a person or a file gives it.
 *
 * Holds: a name that is understood is understood the same when it is written
 * out in full, and that form does not change any more.
 */
#include "fetcher/reference.h"
#include "tests/fuzz/fuzz.h"

static bool same(const char *left, const char *right)
{
    return left && right ? strcmp(left, right) == 0 : left == right;
}

static void check_reference(const struct image_reference *reference)
{
    struct image_reference again;
    struct error *error = NULL;
    char *text = image_reference_format(reference);
    EXPECT(text && reference->registry && reference->repository);
    EXPECT(image_reference_target(reference));
    EXPECT_SUCCESS(image_reference_parse(&again, text, &error));
    EXPECT(same(reference->registry, again.registry));
    EXPECT(same(reference->repository, again.repository));
    EXPECT(same(reference->tag, again.tag) && same(reference->digest, again.digest));
    /* What goes into addresses needs no escaping. */
    for (const char *at = text; *at; at++)
        EXPECT(*at > ' ' && *at < 0x7f && !strchr("?#%\\\"<>", *at));
    image_reference_free(&again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    char *text = text_of_bytes(data, length);
    struct image_reference reference;
    struct error *error = NULL;
    (void)registry_is_loopback(text);
    if (image_reference_parse(&reference, text, &error) == 0) {
        check_reference(&reference);
        image_reference_free(&reference);
    } else {
        expect_error(error);
    }
    error_free(error);
    free(text);
    return 0;
}
