/* Who serves a registry: certs.d directories, hosts.toml, docker's certificate files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "fetcher/hosts-internal.h"
#include "temporary_directory.h"

#define PEM "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"

static char *first, *second;

static void put(const char *root, const char *name, const char *text)
{
    char *path = format_text("%s/%s", root, name), *end = strrchr(path, '/');
    *end = '\0';
    assert_int_equal(directory_make(path, 0755, NULL), 0);
    *end = '/';
    assert_int_equal(file_write_atomic(path, text, strlen(text), 0644, NULL), 0);
    free(path);
}

static int find(const char *registry, struct host_list *ret, struct error **error)
{
    char *const directories[] = { first, second, NULL };
    return hosts_find(directories, registry, ret, error);
}

static struct host_list found(const char *registry)
{
    struct host_list list;
    struct error *error = NULL;
    if (find(registry, &list, &error) < 0) fail_msg("%s", error_message(error));
    return list;
}

/* The file of one registry, which then is looked for. */
static struct host_list read_text(const char *text)
{
    put(first, "text.example/hosts.toml", text);
    return found("text.example");
}

static void assert_refused(const char *text, const char *reason)
{
    struct host_list list;
    struct error *error = NULL;
    put(first, "text.example/hosts.toml", text);
    assert_int_equal(find("text.example", &list, &error), -1);
    const char *message = error_message(error);
    if (!strstr(message, reason)) fail_msg("no '%s' in: %s", reason, message);
    if (!strstr(message, "/text.example/")) fail_msg("no file in: %s", message);
    assert_null(strchr(message, '\n'));
    error_free(error);
}

static void test_no_settings(void **state)
{
    (void)state;
    struct host_list list = found("nobody.example:5000");
    assert_int_equal(list.count, 1);
    assert_null(list.hosts[0].api);
    assert_int_equal(list.hosts[0].capabilities, HOST_EVERYTHING);
    assert_false(list.hosts[0].tls_configured);
    host_list_free(&list);
}

static void assert_first_api(const char *registry, const char *api)
{
    struct host_list list = found(registry);
    assert_string_equal(list.hosts[0].api, api);
    host_list_free(&list);
}

static void test_directories(void **state)
{
    (void)state;
    put(second, "host.example/hosts.toml", "server = 'https://second.example'");
    assert_first_api("host.example", "https://second.example/v2");
    put(second, "host.example:5000/hosts.toml", "server = 'https://colon.example'");
    assert_first_api("host.example:5000", "https://colon.example/v2");
    put(second, "host.example_5000_/hosts.toml", "server = 'https://low.example'");
    assert_first_api("host.example:5000", "https://low.example/v2");
    put(second, "_default/hosts.toml", "server = 'https://default.example'");
    assert_first_api("other.example", "https://default.example/v2");
    /* The first directory that knows anything has the say. */
    put(first, "_default/hosts.toml", "server = 'https://first.example'");
    assert_first_api("host.example", "https://first.example/v2");
    char *path = format_text("%s/_default/hosts.toml", first);
    assert_int_equal(remove(path), 0);
    *strrchr(path, '/') = '\0';
    assert_int_equal(remove(path), 0);
    free(path);
}

static void test_order_and_capabilities(void **state)
{
    (void)state;
    struct host_list list = read_text("[host.\"https://z.example\"]\n"
                                      "  capabilities = [\"pull\"]\n"
                                      "[host.\"http://a.example:80/pre/\"]\n"
                                      "  capabilities = [\"Resolve\", \"pull\"]\n"
                                      "  unknown = { to = 'us' }\n"
                                      "[host.\"m.example/v2\"]\n"
                                      "[host.\"https://o.example/odd/place\"]\n"
                                      "  override_path = true\n");
    assert_int_equal(list.count, 5);
    assert_string_equal(list.hosts[0].api, "https://z.example/v2");
    assert_int_equal(list.hosts[0].capabilities, HOST_PULL);
    assert_string_equal(list.hosts[1].api, "http://a.example:80/pre/v2");
    assert_int_equal(list.hosts[1].capabilities, HOST_PULL | HOST_RESOLVE);
    assert_string_equal(list.hosts[2].api, "https://m.example/v2");
    assert_int_equal(list.hosts[2].capabilities, HOST_EVERYTHING);
    assert_string_equal(list.hosts[3].api, "https://o.example/odd/place");
    assert_null(list.hosts[4].api);
    assert_int_equal(list.hosts[4].capabilities, HOST_EVERYTHING);
    host_list_free(&list);
}

static void test_certificates_and_headers(void **state)
{
    (void)state;
    put(first, "text.example/own.pem", PEM);
    put(first, "text.example/id.cert", PEM);
    put(first, "text.example/id.key", PEM);
    struct host_list list =
        read_text("server = 'https://s.example'\nca = 'own.pem'\nskip_verify = true\n"
                  "[header]\nX-One = 'a b'\nX-Two = ['c', 'd']\n"
                  "[host.'https://m.example']\nca = ['own.pem', 'id.cert']\n"
                  "client = [['id.cert', 'id.key']]\n");
    assert_int_equal(list.count, 2);
    const struct host_settings *mirror = &list.hosts[0], *server = &list.hosts[1];
    assert_int_equal(mirror->authorities.length, 2 * (strlen(PEM) + 1));
    assert_non_null(strstr(mirror->client_certificate, "/text.example/id.cert"));
    assert_non_null(strstr(mirror->client_key, "/text.example/id.key"));
    assert_false(mirror->skip_verify);
    assert_int_equal(server->authorities.length, strlen(PEM) + 1);
    assert_true(server->skip_verify);
    assert_true(server->tls_configured);
    assert_int_equal(server->header_count, 3);
    assert_string_equal(server->headers[0], "X-One: a b");
    assert_string_equal(server->headers[2], "X-Two: d");
    host_list_free(&list);
    /* Nothing but a key and a certificate in one file. */
    list = read_text("client = 'id.cert'");
    assert_non_null(list.hosts[0].client_certificate);
    assert_null(list.hosts[0].client_key);
    host_list_free(&list);
}

static void test_docker_files(void **state)
{
    (void)state;
    put(first, "docker.example/ca.crt", PEM);
    put(first, "docker.example/more.crt", PEM);
    put(first, "docker.example/client.cert", PEM);
    put(first, "docker.example/client.key", PEM);
    put(first, "docker.example/README", "not for us");
    struct host_list list = found("docker.example");
    assert_int_equal(list.count, 1);
    assert_null(list.hosts[0].api);
    assert_int_equal(list.hosts[0].authorities.length, 2 * (strlen(PEM) + 1));
    assert_non_null(strstr(list.hosts[0].client_certificate, "client.cert"));
    assert_non_null(strstr(list.hosts[0].client_key, "client.key"));
    host_list_free(&list);
    put(first, "docker.example/ca.crt", "no certificate");
    struct error *error = NULL;
    assert_int_equal(find("docker.example", &list, &error), -1);
    assert_non_null(strstr(error_message(error), "ca.crt' holds no PEM certificate"));
    error_free(error);
}

static void test_files_that_are_wrong(void **state)
{
    (void)state;
    assert_refused("server = 'https://a'\nx = = 1\n", "hosts.toml' line 2: ");
    /* What the library's authors took for impossible. */
    assert_refused("a = 1\n\n[+b]\n", "hosts.toml' line 3: ");
    assert_refused("a = 1\n\u00e4 = 2\n", "hosts.toml' line 2: ");
    assert_refused("a = 1\nb = 2 \ufef7\n", "hosts.toml' line 2: ");
    assert_refused("server = 1", "\"server\" must be a URL");
    assert_refused("host = 'https://a'", "\"host\" must be tables");
    assert_refused("[host.'https://a']\ncapabilities = ['fly']", "\"capabilities\" must be");
    assert_refused("[host.'https://a']\ncapabilities = 'pull'", "host \"https://a\": \"capa");
    assert_refused("[host.'ftp://a']", "neither http nor https");
    assert_refused("[host.'https://me:secret@a']", "host \"a\": it points to a URL with a user");
    assert_refused("server = 'https://me:secret@a'", "server \"a\": it points to a URL with a");
    assert_refused("[host.'https://user:word@a']", "user name");
    assert_refused("[host.'https://a?b=c']", "a query");
    assert_refused("skip_verify = 'yes'", "\"skip_verify\" must be true or false");
    assert_refused("ca = 1", "\"ca\" must be");
    assert_refused("ca = 'missing.pem'", "missing.pem' does not exist");
    assert_refused("ca = '/dev/zero'", "'/dev/zero' is no plain file");
    assert_refused("client = [['a']]", "\"client\" must be");
    assert_refused("client = 'missing.pem'", "missing.pem'");
    assert_refused("client = '/dev/zero'", "'/dev/zero' is no plain file");
    assert_refused("[header]\n\"X: y\" = 'z'", "header 'X: y'");
    assert_refused("[header]\nX = \"a\\r\\nHost: b\"", "header 'X'");
    assert_refused("[header]\nX = 1", "header 'X'");
    assert_refused("x = \"\\u0000\"", "hosts.toml'");
    char *deep = calloc(1, 100002);
    memset(deep, '[', 100000);
    memcpy(deep, "x=", 2);
    assert_refused(deep, "line 1: ");
    free(deep);
    struct buffer many = { 0 };
    for (unsigned i = 0; i < 40; i++) {
        char *line = format_text("[host.'https://h%u']\n", i);
        buffer_append(&many, line, strlen(line));
        free(line);
    }
    buffer_append_u8(&many, 0);
    assert_refused((char *)many.data, "more than 32 hosts");
    buffer_free(&many);
    char *large = calloc(1, 300002);
    memset(large, '\n', 300000);
    assert_refused(large, "larger than");
    free(large);
}

static int set_up(void **state)
{
    char *base = temporary_directory_make();
    log_set_level(LOG_ERROR);
    first = format_text("%s/first", base);
    second = format_text("%s/second", base);
    *state = base;
    return first && second ? 0 : -1;
}

static int tear_down(void **state)
{
    temporary_directory_remove(*state);
    free(first);
    free(second);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_settings),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_order_and_capabilities),
        cmocka_unit_test(test_certificates_and_headers),
        cmocka_unit_test(test_docker_files),
        cmocka_unit_test(test_files_that_are_wrong),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
