#include "fetcher/url-internal.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "fetcher/reference.h"

static void free_curl_text(char **text)
{
    curl_free(*text);
}
#define cleanup_curl_text __attribute__((cleanup(free_curl_text)))

static void free_handle(CURLU **handle)
{
    curl_url_cleanup(*handle);
}
#define cleanup_handle __attribute__((cleanup(free_handle)))

/* NULL when `url` is none or memory is short. */
static CURLU *parse(const char *url)
{
    CURLU *handle = curl_url();
    if (handle && curl_url_set(handle, CURLUPART_URL, url, 0) == CURLUE_OK) return handle;
    curl_url_cleanup(handle);
    return NULL;
}

/* Fresh memory of libcurl's, or NULL. */
static char *part(CURLU *handle, CURLUPart which)
{
    char *text = NULL;
    unsigned flags = which == CURLUPART_PORT ? CURLU_DEFAULT_PORT : 0;
    return curl_url_get(handle, which, &text, flags) == CURLUE_OK ? text : NULL;
}

bool url_is_https(const char *url)
{
    return strncasecmp(url, "https://", 8) == 0;
}

char *url_resolve(const char *base, const char *location, struct error **error)
{
    cleanup_handle CURLU *handle = parse(base);
    if (!handle || strnlen(location, URL_LIMIT + 1) > URL_LIMIT ||
        curl_url_set(handle, CURLUPART_URL, location, 0) != CURLUE_OK) {
        error_set(error, ERROR_INVALID, "it points to something that is no URL");
        return NULL;
    }
    cleanup_curl_text char *scheme = part(handle, CURLUPART_SCHEME);
    cleanup_curl_text char *user = part(handle, CURLUPART_USER);
    cleanup_curl_text char *password = part(handle, CURLUPART_PASSWORD);
    bool https = scheme && strcasecmp(scheme, "https") == 0;
    if (!https && !(scheme && strcasecmp(scheme, "http") == 0)) {
        error_set(error, ERROR_INVALID, "it points to something that is neither http nor https");
        return NULL;
    }
    if (user || password) {
        error_set(error, ERROR_INVALID, "it points to a URL with a user name");
        return NULL;
    }
    cleanup_curl_text char *resolved = part(handle, CURLUPART_URL);
    char host[URL_HOST_LIMIT];
    if (url_is_https(base) && !https) {
        error_set(error, ERROR_INVALID, "it leads from https to http (host %s)",
                  resolved ? url_host(resolved, host) : "?");
        return NULL;
    }
    char *copy = resolved ? strdup(resolved) : NULL;
    if (!copy) error_set_memory(error);
    return copy;
}

static bool same(const char *left, const char *right)
{
    return left && right && strcasecmp(left, right) == 0;
}

bool url_same_origin(const char *left, const char *right)
{
    static const CURLUPart parts[] = { CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT };
    cleanup_handle CURLU *left_handle = parse(left);
    cleanup_handle CURLU *right_handle = parse(right);
    if (!left_handle || !right_handle) return false;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        cleanup_curl_text char *left_part = part(left_handle, parts[i]);
        cleanup_curl_text char *right_part = part(right_handle, parts[i]);
        if (!same(left_part, right_part)) return false;
    }
    return true;
}

const char *url_host(const char *url, char ret[URL_HOST_LIMIT])
{
    const char *start = strstr(url, "://");
    size_t length = start ? strcspn(start + 3, "/?#") : 0;
    if (length == 0 || length >= URL_HOST_LIMIT || memchr(start + 3, '@', length)) return "?";
    memcpy(ret, start + 3, length);
    ret[length] = '\0';
    return ret;
}

bool url_is_loopback(const char *url)
{
    char host[URL_HOST_LIMIT];
    return registry_is_loopback(url_host(url, host));
}

char *url_add_query(char *url, const char *name, const char *value)
{
    char *encoded = url ? curl_easy_escape(NULL, value, 0) : NULL;
    char *made = NULL;
    if (encoded) made = format_text("%s%c%s=%s", url, strchr(url, '?') ? '&' : '?', name, encoded);
    curl_free(encoded);
    free(url);
    return made;
}
