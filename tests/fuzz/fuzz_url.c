/*
 * Fed: the Location or Link target of an answer, behind a byte that chooses
 * the address that was asked.
 *
 * Holds: where it leads is http or https, never down from https to http, and
 * holds no user; it is of its own origin; an error shows nothing behind the
 * host, for signatures stand there; what is added to a query adds nothing else.
 */
#include "fetcher/url-internal.h"
#include "tests/fuzz/fuzz.h"

static const char *const bases[] = {
    "https://registry.example.com/v2/library/python/blobs/sha256:00?x=y",
    "http://127.0.0.1:5000/v2/a/manifests/latest",
    "https://[2001:db8::1]:8443/v2/",
    "https://registry.example.com",
};

static void check_target(const char *base, const char *url)
{
    char host[URL_HOST_LIMIT];
    EXPECT(strncasecmp(url, "http://", 7) == 0 || url_is_https(url));
    EXPECT(!url_is_https(base) || url_is_https(url));
    EXPECT(url_same_origin(url, url));
    const char *authority = strstr(url, "://") + 3;
    EXPECT(!memchr(authority, '@', strcspn(authority, "/?#")));
    EXPECT(strlen(url_host(url, host)) < URL_HOST_LIMIT);
    (void)url_is_loopback(url);
    for (const char *at = url; *at; at++)
        EXPECT((unsigned char)*at > ' ' && *at != 0x7f);
}

static void check_query(const char *text)
{
    const char *start = "https://a/b?c=d&name=";
    char *url = url_add_query(strdup("https://a/b?c=d"), "name", text);
    EXPECT(url && strncmp(url, start, strlen(start)) == 0);
    EXPECT(!strpbrk(url + strlen(start), "&=#? /\r\n"));
    free(url);
}

static void check_error(const struct error *error, const char *location)
{
    const char *query = strchr(location, '?');
    expect_error(error);
    if (query && strlen(query) > 20) EXPECT(!strstr(error_message(error), query));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    const char *base = bases[take_number(&data, &length, 1) % (sizeof bases / sizeof *bases)];
    char *location = text_of_bytes(data, length);
    struct error *error = NULL;
    char *url = url_resolve(base, location, &error);
    if (url)
        check_target(base, url);
    else
        check_error(error, location);
    if (*location) check_query(location);
    error_free(error);
    free(url);
    free(location);
    return 0;
}
