/*
 * Fed: what a registry says of an image: a manifest, an image index or a
 * config, whichever it is taken for; and a platform as a person types it.
 *
 * Holds: an answer within the bounds of the headers, or a reason; a platform
 * that is understood is understood the same when it is written out.
 */
#include "index/image_manifest.h"
#include "tests/fuzz/fuzz.h"

static void check_manifest(const uint8_t *data, size_t length)
{
    struct image_manifest manifest;
    struct error *error = NULL;
    if (image_manifest_parse(&manifest, data, length, &error) == 0) {
        EXPECT(manifest.layer_count > 0 && manifest.layer_count <= IMAGE_LAYERS_MAX);
        EXPECT(manifest.config.media_type);
        for (size_t i = 0; i < manifest.layer_count; i++)
            EXPECT(manifest.layers[i].media_type && manifest.layers[i].size <= 1ull << 53);
        image_manifest_free(&manifest);
    } else {
        expect_error(error);
    }
    error_free(error);
}

static void check_config(const uint8_t *data, size_t length)
{
    struct image_config config;
    struct error *error = NULL;
    char text[PLATFORM_TEXT_SIZE];
    if (image_config_parse(&config, data, length, &error) == 0) {
        EXPECT(config.layer_count <= IMAGE_LAYERS_MAX);
        EXPECT(strlen(platform_format(&config.platform, text)) < PLATFORM_TEXT_SIZE);
        image_config_free(&config);
    } else {
        expect_error(error);
    }
    error_free(error);
}

static void check_index(const uint8_t *data, size_t length)
{
    static const char *const wanted[] = { "linux/amd64", "linux/arm64/v8", "linux/arm/v7" };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        struct platform platform;
        struct digest digest;
        struct error *error = NULL;
        EXPECT_SUCCESS(platform_parse(&platform, wanted[i], &error));
        if (image_index_select(data, length, &platform, &digest, &error) < 0) expect_error(error);
        error_free(error);
    }
}

static void check_platform(const char *text)
{
    struct platform platform, again;
    struct error *error = NULL;
    char written[PLATFORM_TEXT_SIZE];
    if (platform_parse(&platform, text, &error) == 0) {
        EXPECT(strcmp(platform_format(&platform, written), text) == 0);
        EXPECT_SUCCESS(platform_parse(&again, written, &error));
        EXPECT(memcmp(&platform, &again, sizeof platform) == 0);
    } else {
        expect_error(error);
    }
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    char *text = text_of_bytes(data, length);
    (void)manifest_is_image_index(text, data, length);
    (void)manifest_is_image_index("", data, length);
    check_manifest(data, length);
    check_config(data, length);
    check_index(data, length);
    check_platform(text);
    free(text);
    return 0;
}
