#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "grpc/metadata.h"
#include "grpc/wire-internal.h"

static enum grpc_message_fault read_message(const void *data, size_t length, size_t piece,
                                            size_t limit, struct buffer *ret)
{
    struct grpc_message_reader reader = { .limit = limit };
    const uint8_t *bytes = data;
    for (size_t i = 0; i < length; i += piece)
        grpc_message_add(&reader, bytes + i, length - i < piece ? length - i : piece);
    enum grpc_message_fault fault = grpc_message_end(&reader);
    if (ret)
        *ret = reader.message;
    else
        buffer_free(&reader.message);
    return fault;
}

static void messages_come_in_any_pieces(void **state)
{
    (void)state;
    struct buffer framed = { 0 };
    char text[3000];
    memset(text, 'x', sizeof text);
    assert_int_equal(grpc_message_append(&framed, text, sizeof text), 0);
    for (size_t piece = 1; piece < 12; piece++) {
        struct buffer message;
        assert_int_equal(read_message(framed.data, framed.length, piece, 3000, &message),
                         GRPC_MESSAGE_FINE);
        assert_int_equal(message.length, sizeof text);
        assert_memory_equal(message.data, text, sizeof text);
        buffer_free(&message);
    }
    assert_int_equal(read_message(framed.data, framed.length, 7, 2999, NULL),
                     GRPC_MESSAGE_TOO_LONG);
    assert_int_equal(read_message(framed.data, framed.length - 1, 7, 3000, NULL), GRPC_MESSAGE_CUT);
    assert_int_equal(read_message(framed.data, 4, 7, 3000, NULL), GRPC_MESSAGE_CUT);
    assert_int_equal(read_message(framed.data, 0, 7, 3000, NULL), GRPC_MESSAGE_MISSING);
    buffer_free(&framed);
}

static void what_is_no_single_message_is_refused(void **state)
{
    (void)state;
    assert_int_equal(read_message("\0\0\0\0\0", 5, 5, 10, NULL), GRPC_MESSAGE_FINE);
    assert_int_equal(read_message("\0\0\0\0\0\0", 6, 6, 10, NULL), GRPC_MESSAGE_SECOND);
    assert_int_equal(read_message("\1\0\0\0\1x", 6, 6, 10, NULL), GRPC_MESSAGE_COMPRESSED);
    assert_int_equal(read_message("\2\0\0\0\1x", 6, 6, 10, NULL), GRPC_MESSAGE_BAD_FLAG);
    assert_int_equal(read_message("\0\xff\xff\xff\xffx", 6, 6, 10, NULL), GRPC_MESSAGE_TOO_LONG);
}

static void timeouts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t milliseconds;
    } good[] = { { "1H", 3600000 }, { "2M", 120000 },
                 { "3S", 3000 },    { "4m", 4 },
                 { "4001u", 5 },    { "1n", 1 },
                 { "0m", 0 },       { "99999999H", 99999999ULL * 3600000 } };
    static const char *const bad[] = {
        "", "1", "m", "1x", "-1m", "1mm", "1 m", "+1m", "123456789m"
    };
    uint64_t milliseconds;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(grpc_timeout_parse(good[i].text, &milliseconds));
        assert_int_equal(milliseconds, good[i].milliseconds);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(grpc_timeout_parse(bad[i], &milliseconds));
    static const uint64_t times[] = { 0, 99999999, 100000000, 99999999000 };
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        char text[GRPC_TIMEOUT_LENGTH];
        grpc_timeout_format(times[i], text);
        assert_true(grpc_timeout_parse(text, &milliseconds));
        assert_int_equal(milliseconds, times[i]);
    }
}

static void texts_survive_headers(void **state)
{
    (void)state;
    char *encoded = grpc_text_encode("100 % of \"\xc3\xa4\"\n");
    assert_string_equal(encoded, "100 %25 of \"%C3%A4\"%0A");
    char *decoded = grpc_text_decode((const uint8_t *)encoded, strlen(encoded));
    assert_string_equal(decoded, "100 % of \"\xc3\xa4\"?");
    free(encoded);
    free(decoded);
    decoded = grpc_text_decode((const uint8_t *)"%zz%4", 5);
    assert_string_equal(decoded, "%zz%4");
    free(decoded);
}

static int add(struct grpc_metadata *metadata, const char *name, const char *value)
{
    return grpc_metadata_add(metadata, (const uint8_t *)name, strlen(name), (const uint8_t *)value,
                             strlen(value));
}

static void metadata_is_bounded(void **state)
{
    (void)state;
    struct grpc_metadata metadata = { 0 };
    static char large[GRPC_METADATA_BYTES];
    memset(large, 'x', sizeof large - 1);
    assert_int_equal(add(&metadata, "containerd-namespace", "k8s.io"), 0);
    assert_int_equal(add(&metadata, "Upper", "x"), -1);
    assert_int_equal(add(&metadata, "", "x"), -1);
    assert_int_equal(add(&metadata, "line", "a\r\nb"), -1);
    assert_int_equal(add(&metadata, "large", large), -1);
    assert_string_equal(grpc_metadata_find(&metadata, "containerd-namespace"), "k8s.io");
    assert_null(grpc_metadata_find(&metadata, "large"));
    while (metadata.count < GRPC_METADATA_COUNT)
        assert_int_equal(add(&metadata, "more", ""), 0);
    assert_int_equal(add(&metadata, "more", ""), -1);
    grpc_metadata_free(&metadata);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_come_in_any_pieces),
        cmocka_unit_test(what_is_no_single_message_is_refused),
        cmocka_unit_test(timeouts),
        cmocka_unit_test(texts_survive_headers),
        cmocka_unit_test(metadata_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
