/* Attributes in the forms in which archives tell them: as they are, encoded, and ACLs as text. */
#include "base/log.h"
#include "tests/unit/tar_reading.h"

#define NOBODY 0xffffffffu

/* The kernel's form: three numbers an entry, in the order of tag, permissions, id. */
static size_t acl_bytes(uint8_t *to, const uint32_t (*entries)[3], size_t count)
{
    memcpy(to, "\2\0\0\0", 4);
    for (size_t i = 0; i < count; i++) {
        uint8_t *at = to + 4 + i * 8;
        at[0] = (uint8_t)entries[i][0];
        at[1] = 0;
        at[2] = (uint8_t)entries[i][1];
        at[3] = 0;
        for (size_t byte = 0; byte < 4; byte++)
            at[4 + byte] = (uint8_t)(entries[i][2] >> 8 * byte);
    }
    return 4 + count * 8;
}

/* The only attribute of the only entry; NULL: it has none. Valid until the next call. */
static const struct entry_xattr *only_attribute(struct buffer *tar)
{
    static struct entry_table *table;
    if (table) entry_table_free(table);
    table = NULL;
    if (!tar) return NULL;
    table = accept(tar);
    assert_int_equal(entry_table_count(table), 1);
    const struct entry *entry = entry_table_get(table, 0);
    assert_in_range(entry->xattr_count, 0, 1);
    return entry->xattr_count ? entry->xattrs : NULL;
}

static void expect_acl(const char *key, const char *text, const uint32_t (*entries)[3],
                       size_t count)
{
    struct buffer tar = { 0 };
    uint8_t bytes[200];
    size_t length = acl_bytes(bytes, entries, count);
    tar_pax_text(&tar, key, text);
    tar_directory(&tar, "d", 0755);
    const struct entry_xattr *xattr = only_attribute(&tar);
    assert_non_null(xattr);
    assert_string_equal(xattr->name, strstr(key, "default") ? "system.posix_acl_default"
                                                            : "system.posix_acl_access");
    assert_int_equal(xattr->value_length, length);
    assert_memory_equal(xattr->value, bytes, length);
}

static const uint32_t full[][3] = { { 1, 7, NOBODY }, { 2, 4, 5 },     { 2, 5, 1000 },
                                    { 4, 5, NOBODY }, { 8, 0, 70000 }, { 16, 7, NOBODY },
                                    { 32, 4, NOBODY } };

static void acls_as_text(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "user::rwx,user:5:r--,user:1000:r-x,group::r-x,group:70000:---,mask::rwx,other::r--",
        "user::rwx\nuser:1000:r-x\nuser:5:r--\ngroup::r-x\ngroup:70000:---\nmask::rwx\nother::r--"
        "\n",
        "u::rwx,u:lisa:r-x:1000,u:ann:r--:5,g::r-x,g:staff:---:70000,m::rwx,o::r--",
        "# a comment\nuser::rwx\nuser:5:r-- #effective:r--\n user : 1000 : r-x \n\ngroup::rx,"
        "group:70000:-,mask:rwx,other:r",
        "default:user::rwx,default:user:5:r--,d:user:1000:r-x,d:g::r-x,d:g:70000:---,d:m::rwx,"
        "d:o::r--",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        expect_acl("SCHILY.acl.access", texts[i], full, 7);
        expect_acl("SCHILY.acl.default", texts[i], full, 7);
    }
    static const uint32_t mode[][3] = { { 1, 6, NOBODY }, { 4, 4, NOBODY }, { 32, 0, NOBODY } };
    expect_acl("SCHILY.acl.access", "user::rw-,group::r--,other::---", mode, 3);
    only_attribute(NULL);
}

static void acls_without_numbers(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    static const char *const texts[] = {
        "user::rwx,user:lisa:r-x,group::r-x,mask::rwx,other::r--",
        "user::rwx,group::r-x,group:staff:r-x,mask::rwx,other::r--",
        "user::rwx,user:lisa:r-x:4294967295,group::r-x,mask::rwx,other::r--",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        tar_pax_text(&tar, "SCHILY.acl.access", texts[i]);
        tar_directory(&tar, "d", 0755);
        assert_null(only_attribute(&tar));
    }
    /* Nothing is told of nobody. */
    tar_pax_text(&tar, "SCHILY.acl.access", "");
    tar_directory(&tar, "d", 0755);
    assert_null(only_attribute(&tar));
    only_attribute(NULL);
}

static void bad_acls(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "user::rwx",
        "user::rwx,group::r-x,other::r--,other::r--",
        "user::rwx,user:5:r-x,group::r-x,other::r--", /* no mask */
        "user::rwx,group::r-x,group:5:r-x,other::r--",
        "user::rwx,group::r-x,mask::r-x",
        "user::rwq,group::r-x,other::r--",
        "user::,group::r-x,other::r--",
        "user::rwx,group::r-x,other:5:r--",
        "user::rwx,group::r-x,other::r--:5",
        "user::rwx:1:2,group::r-x,other::r--",
        "owner::rwx,group::r-x,other::r--",
        "nonsense",
        ":::",
    };
    struct buffer tar = { 0 };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        tar_pax_text(&tar, "SCHILY.acl.access", texts[i]);
        tar_directory(&tar, "d", 0755);
        refuse(&tar, ERROR_INVALID, "ACL");
    }
    tar_pax(&tar, 'x', "SCHILY.acl.access", "user::rwx\0", 10);
    tar_directory(&tar, "d", 0755);
    refuse(&tar, ERROR_INVALID, "ACL");
}

/* What the kernel would refuse to set, or not understand when it asks. */
static void binary_acls(void **state)
{
    (void)state;
    uint8_t bytes[200];
    struct buffer tar = { 0 };
    size_t length = acl_bytes(bytes, full, 7);
    tar_pax(&tar, 'x', "SCHILY.xattr.system.posix_acl_access", bytes, length);
    tar_directory(&tar, "d", 0755);
    const struct entry_xattr *xattr = only_attribute(&tar);
    assert_int_equal(xattr->value_length, length);
    assert_memory_equal(xattr->value, bytes, length);
    tar_pax(&tar, 'x', "SCHILY.xattr.system.posix_acl_access", bytes, 4);
    tar_directory(&tar, "d", 0755);
    assert_null(only_attribute(&tar));
    only_attribute(NULL);

    static const uint32_t wrong[][3][3] = {
        { { 1, 8, NOBODY }, { 4, 5, NOBODY }, { 32, 5, NOBODY } },
        { { 4, 7, NOBODY }, { 1, 5, NOBODY }, { 32, 5, NOBODY } },
        { { 1, 7, NOBODY }, { 4, 5, NOBODY }, { 64, 5, NOBODY } },
        { { 1, 7, NOBODY }, { 4, 5, NOBODY }, { 16, 5, NOBODY } },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        length = acl_bytes(bytes, wrong[i], 3);
        tar_pax(&tar, 'x', "SCHILY.xattr.system.posix_acl_default", bytes, length);
        tar_directory(&tar, "d", 0755);
        refuse(&tar, ERROR_INVALID, "ACL");
    }
    length = acl_bytes(bytes, full, 7);
    const size_t lengths[] = { 0, 3, length - 8, length - 1 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        tar_pax(&tar, 'x', "SCHILY.xattr.system.posix_acl_access", bytes, lengths[i]);
        tar_directory(&tar, "d", 0755);
        refuse(&tar, ERROR_INVALID, "ACL");
    }
    bytes[0] = 3;
    tar_pax(&tar, 'x', "SCHILY.xattr.system.posix_acl_access", bytes, length);
    tar_directory(&tar, "d", 0755);
    refuse(&tar, ERROR_INVALID, "ACL");
}

static void expect_encoded(const char *key, const char *text, const char *name, const void *value,
                           size_t length)
{
    struct buffer tar = { 0 };
    tar_pax_text(&tar, key, text);
    tar_file(&tar, "f", NULL);
    const struct entry_xattr *xattr = only_attribute(&tar);
    assert_string_equal(xattr->name, name);
    assert_int_equal(xattr->value_length, length);
    assert_memory_equal(xattr->value, value, length);
}

static void encoded_attributes(void **state)
{
    (void)state;
    expect_encoded("LIBARCHIVE.xattr.user.a", "", "user.a", "", 0);
    expect_encoded("LIBARCHIVE.xattr.user.a", "AA==", "user.a", "\0", 1);
    expect_encoded("LIBARCHIVE.xattr.user.a", "AP8", "user.a", "\0\xff", 2);
    expect_encoded("LIBARCHIVE.xattr.user.a", "+/8A", "user.a", "\xfb\xff\0", 3);
    expect_encoded("LIBARCHIVE.xattr.user.%3D%c3%A9%25%2", "eA", "user.=\xc3\xa9%%2", "x", 1);
    only_attribute(NULL);

    static const char *const bad[][2] = { { "LIBARCHIVE.xattr.user.a", "A" },
                                          { "LIBARCHIVE.xattr.user.a", "AA=A" },
                                          { "LIBARCHIVE.xattr.user.a", "A A=" },
                                          { "LIBARCHIVE.xattr.user.%00", "AA" },
                                          { "LIBARCHIVE.xattr.", "AA" } };
    struct buffer tar = { 0 };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tar_pax_text(&tar, bad[i][0], bad[i][1]);
        tar_file(&tar, "f", NULL);
        refuse(&tar, ERROR_INVALID, "attribute");
    }
}

/* One attribute told in two forms is the one that needs no decoding. */
static void one_of_each_name(void **state)
{
    (void)state;
    uint8_t bytes[200];
    struct buffer tar = { 0 }, records = { 0 };
    size_t length = acl_bytes(bytes, full, 7);
    tar_pax_record(&records, "LIBARCHIVE.xattr.user.a", "ZGVjb2RlZA", 10);
    tar_pax_record(&records, "SCHILY.acl.access", "user::rwx,group::---,other::---", 31);
    tar_pax_record(&records, "SCHILY.xattr.user.a", "plain", 5);
    tar_pax_record(&records, "SCHILY.xattr.system.posix_acl_access", bytes, length);
    tar_pax_record(&records, "LIBARCHIVE.xattr.trusted.overlay.opaque", "eQ", 2);
    tar_pax_record(&records, "LIBARCHIVE.creationtime", "5", 1);
    tar_meta(&tar, 'x', records.data, records.length);
    buffer_free(&records);
    tar_file(&tar, "f", NULL);
    struct entry_table *table = accept(&tar);
    const struct entry *entry = entry_table_get(table, 0);
    assert_int_equal(entry->xattr_count, 2);
    assert_string_equal(entry->xattrs[0].name, "system.posix_acl_access");
    assert_int_equal(entry->xattrs[0].value_length, length);
    assert_string_equal(entry->xattrs[1].name, "user.a");
    assert_memory_equal(entry->xattrs[1].value, "plain", 5);
    entry_table_free(table);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acls_as_text),       cmocka_unit_test(acls_without_numbers),
        cmocka_unit_test(bad_acls),           cmocka_unit_test(binary_acls),
        cmocka_unit_test(encoded_attributes), cmocka_unit_test(one_of_each_name),
    };
    return cmocka_run_group_tests_name("tar_attributes", tests, NULL, NULL);
}
