/* Filters: containerd's syntax, and what it makes of odd ones. */
#include "tests/unit/snapshot_fixture.h"

#include "snapshotter/filters-internal.h"

static const struct snapshot_info *example(void)
{
    static struct snapshot_info info;
    if (!info.name) {
        info = (struct snapshot_info){
            .kind = SNAPSHOT_COMMITTED,
            .name = strdup("k8s.io/7/sha256:abc"),
            .parent = strdup(""),
            .labels = labels_of("containerd.io/snapshot.ref=sha256:abc", "plain=x y", "a.b=dotted",
                                "umlaut=\xc3\xa4", "quote=say \"hi\"", "bytes=\x01/|", NULL),
        };
    }
    return &info;
}

/* 1, 0, or -1 for one that is refused. */
static int match(const char *text)
{
    cleanup_filters struct filters *filters = NULL;
    struct error *error = NULL;
    if (filters_parse(&filters, &text, 1, &error) < 0) {
        assert_int_equal(error_kind_of(error), ERROR_INVALID);
        error_free(error);
        return -1;
    }
    return filters_match(filters, example());
}

static void assert_all(const char *const *texts, size_t count, int expected)
{
    for (size_t i = 0; i < count; i++)
        if (match(texts[i]) != expected) fail_msg("'%s' is not %d", texts[i], expected);
}

#define ASSERT_ALL(expected, ...)                                       \
    do {                                                                \
        static const char *const texts_[] = { __VA_ARGS__ };            \
        assert_all(texts_, sizeof texts_ / sizeof *texts_, (expected)); \
    } while (0)

static void test_what_holds(void **state)
{
    (void)state;
    ASSERT_ALL(1, "", "name==k8s.io/7/sha256:abc", "kind==committed", "name", "parent",
               "parent==\"\"", "labels.plain", "labels.plain==\"x y\"", "labels.a.b==dotted",
               "labels.\"a.b\"==dotted", "labels.umlaut==\xc3\xa4", "labels.umlaut==\"\\u00e4\"",
               "labels.umlaut==\"\\xc3\\244\"", "labels.quote==\"say \\\"hi\\\"\"",
               "labels.bytes==\"\\001/|\"", "labels.nothing!=x", "nothing!=x",
               "labels.\"containerd.io/snapshot.ref\"==sha256:abc,parent==\"\"",
               "name == \"k8s.io/7/sha256:abc\"", " name==k8s.io/7/sha256:abc",
               "name==k8s.io/7/sha256:abc, kind==committed", "name.more.fields",
               "\"name\"==k8s.io/7/sha256:abc");
}

static void test_what_does_not_hold(void **state)
{
    (void)state;
    ASSERT_ALL(0, "name==k8s", "kind==active", "kind==Committed", "labels", "labels.nothing",
               "labels.nothing==\"\"", "nothing", "nothing==x", "parent==x",
               "name!=k8s.io/7/sha256:abc", "name,kind==view", "kind==view,name");
}

static void test_expressions(void **state)
{
    (void)state;
    ASSERT_ALL(1, "name~=sha256", "name~=^k8s", "name~=/^k8s\\\\.io\\/[0-9]+/", "name~=|abc$|",
               "name~=\"abc$\"", "parent~=^$", "labels.nothing~=^$", "name~=\"\\\\d\"",
               "name~=(K|k)8s");
    ASSERT_ALL(0, "name~=^sha256", "name~=(", "name~=[", "name~=ABC", "kind~=^$");
}

static void test_what_is_refused(void **state)
{
    (void)state;
    ASSERT_ALL(-1, ",", "name,", "name==", "name=", "name=x", "name===x", "name~x", "==x", ".name",
               "name.", "labels..a", "name==x,,kind", "name==x y", "name==\"x", "name==\"\\q\"",
               "name==/x/", "name==|x|", "/name/==x", "name==\"\\u12\"", "name==\"\\ud800\"",
               "name==\"\\000\"", "name==\"\\777\"", "name==\"x\\", "name =", "name ", "na-me",
               "name==x ,kind", "name\n==\"a\nb\"", "\x01", "name==\x01", "name==,kind",
               "name~=/k8s\\.io/");
}

/* What is right of one of several is right. */
static void test_several(void **state)
{
    (void)state;
    cleanup_filters struct filters *filters = NULL;
    const char *const texts[] = { "name==x", "kind==active,name", "kind==committed" };
    assert_int_equal(filters_parse(&filters, texts, 3, NULL), 0);
    assert_true(filters_match(filters, example()));
    filters_free(filters);
    assert_int_equal(filters_parse(&filters, texts, 2, NULL), 0);
    assert_false(filters_match(filters, example()));
    filters_free(filters);
    assert_int_equal(filters_parse(&filters, NULL, 0, NULL), 0);
    assert_true(filters_match(filters, example()));
}

/* They come from a socket: they cost bounded time and memory, whatever they are. */
static void test_costly_ones(void **state)
{
    (void)state;
    struct snapshot_info info = { .kind = SNAPSHOT_ACTIVE, .parent = "" };
    char *name = calloc(1, 30001);
    memset(name, 'a', 30000);
    info.name = name;
    const char *const slow = "name~=(a+)+$x";
    cleanup_filters struct filters *filters = NULL;
    assert_int_equal(filters_parse(&filters, &slow, 1, NULL), 0);
    assert_false(filters_match(filters, &info));
    free(name);

    size_t length = 3000000;
    char *long_text = malloc(length + 1);
    memset(long_text, '(', length);
    memcpy(long_text, "name~=", 6);
    long_text[length] = 0;
    assert_int_equal(match(long_text), 0);
    for (size_t i = 0; i < length; i++)
        long_text[i] = i % 2 ? ',' : 'a';
    long_text[length - 1] = 'a';
    assert_int_equal(match(long_text), -1);
    free(long_text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_holds),  cmocka_unit_test(test_what_does_not_hold),
        cmocka_unit_test(test_expressions), cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_several),     cmocka_unit_test(test_costly_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
