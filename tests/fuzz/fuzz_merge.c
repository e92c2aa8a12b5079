/*
 * Fed: a few words that make up to four layers: entries of all types under few
 * names, so that they meet. Bytes of a format would hardly ever get past it.
 *
 * Holds: such layers merge into an image that is accepted and makes itself
 * again, or are refused with a reason.
 */
#include "tests/fuzz/image_walk.h"

#define LAYERS        4
#define STREAM_LENGTH (1ull << 40)

/* Few, of all lengths that matter: one character, the longest, none that sorts like its bytes. */
static const char *const components[] = {
    "a",
    "b",
    "c",
    "-",
    "\xff",
    "A very long name, so that few fit into a block of five hundred"
    " and twelve bytes, of which the record takes some as well, and the longest one that is"
    " possible is not far: two hundred and fifty-five bytes, no more, which is soon reached now, "
    "and"
    " here it is....",
    "link",
    ".wh",
    "e\xcc\x81",
    "dir",
};

struct script {
    const uint8_t *data;
    size_t length;
};

static uint8_t byte_of(struct script *script)
{
    return (uint8_t)take_number(&script->data, &script->length, 1);
}

static void path_of(struct script *script, char *ret)
{
    unsigned shape = byte_of(script), count = sizeof components / sizeof *components;
    size_t used = 0;
    for (unsigned depth = 1 + shape % 3; depth > 0; depth--) {
        const char *component = components[byte_of(script) % count];
        used += (size_t)sprintf(ret + used, "%s%s", used ? "/" : "", component);
    }
}

static void target_of(struct script *script, char ret[4096])
{
    unsigned shape = byte_of(script);
    if (shape < 160) {
        size_t used = 0;
        if (shape % 4 == 1) used = (size_t)sprintf(ret, "/");
        if (shape % 4 == 2) used = (size_t)sprintf(ret, "../");
        if (shape % 4 == 3) used = (size_t)sprintf(ret, "./..//");
        path_of(script, ret + used);
        return;
    }
    size_t length = 1 + take_number(&script->data, &script->length, 2) % 4095;
    memset(ret, 'x', length);
    ret[length] = 0;
}

static size_t xattrs_of(struct script *script, struct entry_xattr xattrs[4])
{
    static const char *const names[] = { "security.capability",
                                         "security.selinux",
                                         "system.posix_acl_access",
                                         "system.posix_acl_default",
                                         "trusted.x",
                                         "user.a",
                                         "user.b",
                                         "user.long" };
    static uint8_t values[65535];
    unsigned shape = byte_of(script);
    size_t count = shape >= 240 ? 4 : shape >= 200 ? 1 : 0, name = 0;
    for (size_t i = 0; i < count; i++) {
        name += byte_of(script) % 2;
        size_t length = byte_of(script);
        if (length > 250) length = (size_t)take_number(&script->data, &script->length, 2);
        xattrs[i] = (struct entry_xattr){ names[name++], values, (uint32_t)length };
    }
    return count;
}

static void add_entry(struct script *script, struct entry_table *table)
{
    char path[1024], target[4096];
    struct entry_xattr xattrs[4];
    struct error *error = NULL;
    struct entry entry = { .type = 1 + byte_of(script) % 9, .path = path, .target = target };
    path_of(script, path);
    if (entry.type == ENTRY_SYMLINK) target_of(script, target);
    if (entry.type == ENTRY_HARDLINK) path_of(script, target);
    if ((entry.type == ENTRY_DIRECTORY || entry.type == ENTRY_OPAQUE) && byte_of(script) > 200)
        path[0] = 0;
    entry.mode = byte_of(script);
    entry.uid = byte_of(script);
    if (entry.uid > 200) entry.uid = (uint32_t)take_number(&script->data, &script->length, 4);
    if (entry.uid % 8 == 1) entry.mtime = (int64_t)take_number(&script->data, &script->length, 8);
    if (entry.type == ENTRY_REGULAR) {
        unsigned digits = byte_of(script) % 6;
        entry.size = take_number(&script->data, &script->length, digits) % STREAM_LENGTH;
        entry.data_offset = take_number(&script->data, &script->length, 3) * 512;
    }
    entry.device_major = byte_of(script);
    entry.device_minor = entry.device_major * 4097u;
    entry.xattr_count = (uint32_t)xattrs_of(script, xattrs);
    entry.xattrs = xattrs;
    if (entry_table_append(table, &entry, &error) < 0) expect_error(error);
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct script script = { data, length };
    struct entry_table *tables[LAYERS];
    struct merge_layer layers[LAYERS];
    for (size_t i = 0; i < LAYERS; i++) {
        EXPECT(tables[i] = entry_table_new());
        layers[i] = (struct merge_layer){ tables[i], STREAM_LENGTH, { { (uint8_t)i } } };
    }
    size_t layer = 0;
    while (script.length > 0) {
        if (byte_of(&script) > 230 && layer + 1 < LAYERS) layer++;
        add_entry(&script, tables[layer]);
    }
    (void)merge_and_walk(layers, layer + 1);
    for (size_t i = 0; i < LAYERS; i++)
        entry_table_free(tables[i]);
    return 0;
}
