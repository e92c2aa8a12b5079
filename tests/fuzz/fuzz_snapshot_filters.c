/*
 * Fed: a filter of containerd's List, from the socket.
 *
 * Holds: it is refused with a reason, or says of any snapshot whether it fits;
 * and any name, quoted, is the filter of the snapshot that has it and no other.
 */
#include <stdio.h>

#include "base/log.h"
#include "snapshotter/filters-internal.h"
#include "tests/fuzz/fuzz.h"

static bool matches(const char *filter, const struct snapshot_info *info)
{
    struct filters *filters = NULL;
    struct error *error = NULL;
    EXPECT_SUCCESS(filters_parse(&filters, &filter, 1, &error));
    bool result = filters_match(filters, info);
    filters_free(filters);
    return result;
}

static void check_quoted(char *name)
{
    struct snapshot_info info = { SNAPSHOT_ACTIVE, name, "", { 0 }, { 0 }, { 0 } };
    char *filter = malloc(4 * strlen(name) + 32);
    EXPECT(filter);
    char *at = stpcpy(filter, "name==\"");
    for (const char *from = name; *from; from++)
        at += sprintf(at, "\\x%02x", (unsigned char)*from);
    strcpy(at, "\"");
    EXPECT(matches(filter, &info));
    info.name = "another";
    EXPECT(strcmp(name, "another") == 0 || !matches(filter, &info));
    free(filter);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    char *text = text_of_bytes(data, length);
    const char *filter = text;
    struct filters *filters = NULL;
    struct error *error = NULL;
    /* Of expressions that are none. */
    log_set_level(LOG_ERROR);
    if (filters_parse(&filters, &filter, 1, &error) == 0) {
        struct label label = { "a.b", "c" };
        const struct snapshot_info info = {
            SNAPSHOT_COMMITTED, "k8s.io/1/sha256:a", "", { &label, 1 }, { 0 }, { 0 }
        };
        (void)filters_match(filters, &info);
    } else {
        expect_error(error);
    }
    filters_free(filters);
    error_free(error);
    check_quoted(text);
    free(text);
    return 0;
}
