/* The index manifest: what is written is read back, and what others may put there is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "index/artifact.h"
#include "index/image_manifest.h"

static struct index_part part_of(const char *content)
{
    struct index_part part = { .size = strlen(content), .content_size = 3 * strlen(content) };
    digest_of(content, strlen(content), &part.digest);
    digest_of(content, 1, &part.content_digest);
    return part;
}

static void encode_example(struct buffer *ret)
{
    struct index_layer layers[2] = {
        { .chunks = part_of("chunks 1"), .entries = part_of("entries 1") },
        { .chunks = part_of("chunks 2"),
          .entries = part_of("entries 2"),
          .windows = part_of("windows 2") },
    };
    digest_of("layer 1", 7, &layers[0].blob_digest);
    digest_of("layer 2", 7, &layers[1].blob_digest);
    struct index_artifact artifact = { .subject_size = 42,
                                       .subject_media_type = (char *)MEDIA_TYPE_OCI_MANIFEST,
                                       .metadata = part_of("metadata"),
                                       .layers = layers,
                                       .layer_count = 2 };
    digest_of("image", 5, &artifact.subject);
    assert_int_equal(index_artifact_encode(&artifact, ret, NULL), 0);
}

static void manifest_is_read_back(void **state)
{
    (void)state;
    cleanup_buffer struct buffer text = { 0 }, again = { 0 };
    struct index_artifact read;
    encode_example(&text);
    assert_int_equal(index_artifact_decode(&read, text.data, text.length, NULL), 0);
    assert_int_equal(read.layer_count, 2);
    assert_int_equal(read.layers[0].windows.size, 0);
    assert_int_equal(read.layers[1].windows.size, 9);
    assert_int_equal(index_artifact_encode(&read, &again, NULL), 0);
    assert_int_equal(text.length, again.length);
    assert_memory_equal(text.data, again.data, text.length);
    index_artifact_free(&read);
}

/* Decodes the example with `from` replaced by `to` (of any length) at its first place. */
static void expect_refused(const char *from, const char *to)
{
    cleanup_buffer struct buffer text = { 0 }, changed = { 0 };
    struct index_artifact read;
    struct error *error = NULL;
    encode_example(&text);
    buffer_append_u8(&text, 0);
    char *place = strstr((char *)text.data, from);
    assert_non_null(place);
    buffer_append(&changed, text.data, (size_t)(place - (char *)text.data));
    buffer_append(&changed, to, strlen(to));
    buffer_append(&changed, place + strlen(from), strlen(place + strlen(from)));
    assert_int_equal(index_artifact_decode(&read, changed.data, changed.length, &error), -1);
    assert_non_null(strstr(error_message(error), "index manifest"));
    error_free(error);
}

static void odd_manifests_are_refused(void **state)
{
    (void)state;
    expect_refused(ARTIFACT_TYPE_INDEX, "application/vnd.other.v1");
    expect_refused(MEDIA_TYPE_METADATA, "application/octet-stream");
    expect_refused(MEDIA_TYPE_ENTRIES, MEDIA_TYPE_CHUNKS);
    expect_refused("\"vnd.sluice.content.size\":\"24\"", "\"vnd.sluice.content.size\":\"-1\"");
    expect_refused("\"vnd.sluice.content.size\":\"24\"",
                   "\"vnd.sluice.content.size\":\"99999999999999999999\"");
    expect_refused("\"size\":8", "\"size\":0");
    expect_refused("\"size\":8", "\"size\":\"8\"");
    expect_refused("\"subject\"", "\"object\"");
    expect_refused("\"vnd.sluice.layer\":\"sha256:", "\"vnd.sluice.layer\":\"sha512:");
    expect_refused("\"schemaVersion\":2,", "\"schemaVersion\":2");
}

/* The example as later versions may write it: `more` stands behind its parts. */
static int decode_with(const char *more, struct index_artifact *ret, struct buffer *ret_text)
{
    cleanup_buffer struct buffer text = { 0 };
    static const char end[] = "],\"subject\"";
    encode_example(&text);
    buffer_append_u8(&text, 0);
    char *place = strstr((char *)text.data, end);
    assert_non_null(place);
    buffer_append(ret_text, text.data, (size_t)(place - (char *)text.data));
    buffer_append(ret_text, more, strlen(more));
    buffer_append(ret_text, place, strlen(place));
    return index_artifact_decode(ret, ret_text->data, ret_text->length, NULL);
}

#define PROFILE_PART(size)                                                                     \
    ",{\"mediaType\":\"" MEDIA_TYPE_PROFILE "\",\"digest\":"                                   \
    "\"sha256:000000000000000000000000000000000000000000000000000000000000000a\",\"size\":77," \
    "\"annotations\":{\"vnd.sluice.content.digest\":"                                          \
    "\"sha256:000000000000000000000000000000000000000000000000000000000000000b\","             \
    "\"vnd.sluice.content.size\":\"" size "\"}}"
#define UNKNOWN_PART ",{\"mediaType\":\"application/vnd.sluice.profile.v2+zstd\",\"size\":1}"

static void a_profile_may_follow_the_layers(void **state)
{
    (void)state;
    cleanup_buffer struct buffer text = { 0 }, again = { 0 };
    struct index_artifact read;
    assert_int_equal(decode_with(PROFILE_PART("99"), &read, &text), 0);
    assert_int_equal(read.layer_count, 2);
    assert_int_equal(read.profile.size, 77);
    assert_int_equal(read.profile.content_size, 99);
    assert_int_equal(index_artifact_encode(&read, &again, NULL), 0);
    assert_int_equal(text.length, again.length);
    assert_memory_equal(text.data, again.data, text.length);
    index_artifact_free(&read);
}

static void what_later_versions_add_is_left_alone(void **state)
{
    (void)state;
    static const struct {
        const char *more;
        int result;
    } cases[] = {
        { UNKNOWN_PART, 0 },
        { PROFILE_PART("99") UNKNOWN_PART, 0 },
        { UNKNOWN_PART PROFILE_PART("99"), -1 },
        { PROFILE_PART("99") PROFILE_PART("99"), -1 },
        { PROFILE_PART("99999999"), -1 },
        { UNKNOWN_PART ",{\"mediaType\":\"" MEDIA_TYPE_CHUNKS "\"}", -1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cleanup_buffer struct buffer text = { 0 };
        struct index_artifact read;
        assert_int_equal(decode_with(cases[i].more, &read, &text), cases[i].result);
        if (cases[i].result < 0) continue;
        assert_int_equal(read.layer_count, 2);
        index_artifact_free(&read);
    }
}

static void parts_of_two_layers_do_not_mix(void **state)
{
    (void)state;
    cleanup_buffer struct buffer text = { 0 };
    struct index_artifact read;
    char from[DIGEST_TEXT_SIZE], to[DIGEST_TEXT_SIZE];
    struct digest one, two;
    digest_of("layer 1", 7, &one);
    digest_of("layer 2", 7, &two);
    encode_example(&text);
    buffer_append_u8(&text, 0);
    char *place = strstr((char *)text.data, digest_format(&one, from));
    assert_non_null(place);
    memcpy(place, digest_format(&two, to), DIGEST_TEXT_SIZE - 1);
    assert_int_equal(index_artifact_decode(&read, text.data, text.length - 1, NULL), -1);
}

static void referrers_of_others_are_kept(void **state)
{
    (void)state;
    static const char list[] =
        "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\","
        "\"annotations\":{\"kept\":\"yes\"},\"manifests\":[{\"mediaType\":\"x\",\"digest\":"
        "\"sha256:0000000000000000000000000000000000000000000000000000000000000001\",\"size\":1,"
        "\"artifactType\":\"application/vnd.signature\"}]}";
    cleanup_buffer struct buffer once = { 0 }, twice = { 0 };
    struct index_referrer first = { .size = 10 }, second = { .size = 10 };
    struct digest found;
    digest_of("1", 1, &first.digest);
    digest_of("2", 1, &second.digest);
    assert_false(index_referrer_find(list, strlen(list), &found));
    assert_int_equal(index_referrer_add(list, strlen(list), &first, &once, NULL), 0);
    assert_int_equal(index_referrer_add(once.data, once.length, &second, &twice, NULL), 0);
    assert_true(index_referrer_find(twice.data, twice.length, &found));
    assert_true(digest_equal(&found, &second.digest));
    cleanup_json json_t *root = json_read_object(twice.data, twice.length, "list", NULL);
    assert_int_equal(json_array_size(json_object_get(root, "manifests")), 2);
    assert_string_equal(json_optional_text(json_object_get(root, "annotations"), "kept"), "yes");
    assert_int_equal(index_referrer_add("[]", 2, &first, &once, NULL), -1);
}

/* Where the registry keeps the list, old indexes stay in it, and it has an order of its own. */
static void the_newest_index_is_found(void **state)
{
    (void)state;
    static const char format[] =
        "{\"manifests\":[{\"artifactType\":\"" ARTIFACT_TYPE_INDEX "\",\"digest\":"
        "\"sha256:000000000000000000000000000000000000000000000000000000000000000a\",%s},"
        "{\"artifactType\":\"" ARTIFACT_TYPE_INDEX "\",\"digest\":"
        "\"sha256:000000000000000000000000000000000000000000000000000000000000000b\",%s}]}";
    static const struct {
        const char *first, *second;
        uint8_t found;
    } cases[] = {
        { "\"size\":1", "\"size\":1", 0x0b },
        { "\"annotations\":{\"vnd.sluice.index.revision\":\"1\"}", "\"size\":1", 0x0a },
        { "\"annotations\":{\"vnd.sluice.index.revision\":\"10\"}",
          "\"annotations\":{\"vnd.sluice.index.revision\":\"9\"}", 0x0a },
        { "\"annotations\":{\"vnd.sluice.index.revision\":\"99999999999999999999\"}", "\"size\":1",
          0x0b },
        { "\"annotations\":{\"vnd.sluice.index.revision\":2}", "\"size\":1", 0x0b },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char list[1024];
        struct digest found;
        int length = snprintf(list, sizeof list, format, cases[i].first, cases[i].second);
        assert_true(index_referrer_find(list, (size_t)length, &found));
        assert_int_equal(found.bytes[31], cases[i].found);
    }
}

static void platforms_are_chosen(void **state)
{
    (void)state;
    static const char list[] =
        "{\"manifests\":["
        "{\"platform\":{\"os\":\"unknown\",\"architecture\":\"unknown\"},\"digest\":"
        "\"sha256:000000000000000000000000000000000000000000000000000000000000000a\"},"
        "{\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"},\"digest\":"
        "\"sha256:000000000000000000000000000000000000000000000000000000000000000b\"},"
        "{\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\",\"variant\":\"v8\"},\"digest\":"
        "\"sha256:000000000000000000000000000000000000000000000000000000000000000c\"}]}";
    struct platform platform;
    struct digest digest;
    struct error *error = NULL;
    assert_int_equal(platform_parse(&platform, "linux/arm64", NULL), 0);
    assert_int_equal(image_index_select(list, strlen(list), &platform, &digest, NULL), 0);
    assert_int_equal(digest.bytes[31], 0x0c);
    assert_int_equal(platform_parse(&platform, "linux/arm64/v8", NULL), 0);
    assert_int_equal(image_index_select(list, strlen(list), &platform, &digest, NULL), 0);
    assert_int_equal(platform_parse(&platform, "linux/s390x", NULL), 0);
    assert_int_equal(image_index_select(list, strlen(list), &platform, &digest, &error), -1);
    assert_non_null(strstr(error_message(error), "linux/amd64, linux/arm64/v8;"));
    assert_null(strstr(error_message(error), "unknown"));
    error_free(error);
    error = NULL;
    assert_int_equal(platform_parse(&platform, "linux/arm64/v9", NULL), 0);
    assert_int_equal(image_index_select(list, strlen(list), &platform, &digest, &error), -1);
    assert_non_null(strstr(error_message(error), "linux/arm64/v9; it has"));
    error_free(error);
    static const char *const wrong[] = { "",        "linux",       "linux/",      "/amd64",
                                         "a/b/c/d", "Linux/amd64", "linux/amd 64" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(platform_parse(&platform, wrong[i], NULL), -1);
}

static void image_manifests_are_checked(void **state)
{
    (void)state;
#define CONFIG                                               \
    "\"config\":{\"mediaType\":\"c\",\"size\":2,\"digest\":" \
    "\"sha256:000000000000000000000000000000000000000000000000000000000000000a\"}"
#define LAYER(type)                                      \
    "{\"mediaType\":\"" type "\",\"size\":2,\"digest\":" \
    "\"sha256:000000000000000000000000000000000000000000000000000000000000000b\"}"
#define GOOD LAYER("application/vnd.oci.image.layer.v1.tar+gzip")
    static const char good[] = "{\"schemaVersion\":2," CONFIG ",\"layers\":[" GOOD "]}";
    static const char *const wrong[] = {
        "",
        "[]",
        "{\"schemaVersion\":1," CONFIG ",\"layers\":[" GOOD "]}",
        "{\"schemaVersion\":2,\"layers\":[" GOOD "]}",
        "{\"schemaVersion\":2," CONFIG ",\"layers\":[]}",
        "{\"schemaVersion\":2," CONFIG ",\"layers\":{}}",
        "{\"schemaVersion\":2," CONFIG ",\"layers\":[" LAYER("text/plain") "]}",
        "{\"schemaVersion\":2," CONFIG ",\"layers\":[" GOOD "],\"layers\":[]}",
    };
    struct image_manifest manifest;
    assert_int_equal(image_manifest_parse(&manifest, good, strlen(good), NULL), 0);
    assert_int_equal(manifest.layer_count, 1);
    image_manifest_free(&manifest);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(image_manifest_parse(&manifest, wrong[i], strlen(wrong[i]), NULL), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(manifest_is_read_back),
        cmocka_unit_test(odd_manifests_are_refused),
        cmocka_unit_test(a_profile_may_follow_the_layers),
        cmocka_unit_test(what_later_versions_add_is_left_alone),
        cmocka_unit_test(parts_of_two_layers_do_not_mix),
        cmocka_unit_test(the_newest_index_is_found),
        cmocka_unit_test(referrers_of_others_are_kept),
        cmocka_unit_test(platforms_are_chosen),
        cmocka_unit_test(image_manifests_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
