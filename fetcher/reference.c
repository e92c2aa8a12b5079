#include "fetcher/reference.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/file.h"
#include "fetcher/quirks-internal.h"
#include "fetcher/reference-internal.h"

#define REFERENCE_LIMIT 1024 /* no valid name comes near */
#define NAME_LIMIT      255  /* what registries can store: repository names are path names there */
#define TAG_LIMIT       128  /* distribution specification, "Pulling manifests" */

/* <ctype.h> would ask the locale. */
static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_letter(char c)
{
    return is_lower(c) || (c >= 'A' && c <= 'Z');
}

static bool port_is_valid(const char *port)
{
    unsigned value = 0;
    if (!*port) return false;
    for (; *port; port++) {
        if (!is_digit(*port)) return false;
        value = value * 10 + (unsigned)(*port - '0');
        if (value > 65535) return false;
    }
    return value > 0;
}

/* The length of the host in front of ":port" or the end; 0 when there is none. */
static size_t host_length(const char *registry)
{
    if (*registry != '[') return strcspn(registry, ":");
    const char *end = strchr(registry, ']');
    return end ? (size_t)(end - registry) + 1 : 0;
}

static bool host_is_valid(const char *host, size_t length)
{
    if (host[0] == '[') {
        char address[INET6_ADDRSTRLEN];
        struct in6_addr parsed;
        if (length < 2 || length - 2 >= sizeof address) return false;
        memcpy(address, host + 1, length - 2);
        address[length - 2] = '\0';
        return inet_pton(AF_INET6, address, &parsed) == 1;
    }
    /* Labels are separated by single dots and neither start nor end with a hyphen. */
    char before = '.';
    for (size_t i = 0; i < length; i++) {
        char c = host[i];
        if (c == '.' || c == '-') {
            if (before == '.' || (c == '.' && before == '-')) return false;
        } else if (!is_letter(c) && !is_digit(c)) {
            return false;
        }
        before = c;
    }
    return length > 0 && before != '.' && before != '-';
}

bool registry_name_is_valid(const char *registry)
{
    size_t length = host_length(registry);
    if (length == 0 || length > NAME_LIMIT || !host_is_valid(registry, length)) return false;
    const char *rest = registry + length;
    return !*rest || (*rest == ':' && port_is_valid(rest + 1));
}

/* Behind a run of lower-case letters and digits: "_", ".", "__" or any number of
 * "-" may join it to the next run. Returns the length of the joint. */
static size_t separator_length(const char *text)
{
    if (text[0] == '.') return 1;
    if (text[0] == '_') return text[1] == '_' ? 2 : 1;
    return strspn(text, "-");
}

bool repository_name_is_valid(const char *repository)
{
    static const char alphanumeric[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    size_t length = strnlen(repository, NAME_LIMIT + 1);
    if (length > NAME_LIMIT) return false;
    const char *at = repository;
    for (;;) {
        size_t run = strspn(at, alphanumeric);
        if (run == 0) return false;
        at += run;
        if (!*at) return true;
        size_t joint = *at == '/' ? 1 : separator_length(at);
        if (joint == 0) return false;
        at += joint;
    }
}

bool tag_is_valid(const char *tag)
{
    if (!is_letter(*tag) && !is_digit(*tag) && *tag != '_') return false;
    size_t length = 0;
    for (; tag[length]; length++) {
        char c = tag[length];
        if (length >= TAG_LIMIT) return false;
        if (!is_letter(c) && !is_digit(c) && c != '_' && c != '.' && c != '-') return false;
    }
    return true;
}

static bool names_a_registry(const char *component)
{
    return strpbrk(component, ".:") || strcmp(component, "localhost") == 0;
}

/* Cuts "@digest" and ":tag" off `name` and keeps them. */
static int take_tag_and_digest(struct image_reference *ret, char *name, struct error **error)
{
    char *digest = strchr(name, '@');
    if (digest) {
        *digest++ = '\0';
        struct digest parsed;
        if (digest_parse(&parsed, digest, error) < 0) return -1;
        ret->digest = strdup(digest);
        if (!ret->digest) return error_set_memory(error);
    }
    char *slash = strrchr(name, '/');
    char *tag = strchr(slash ? slash : name, ':');
    if (tag) {
        *tag++ = '\0';
        if (!tag_is_valid(tag))
            return error_set(error, ERROR_INVALID,
                             "the tag '%s' is not valid (letters, digits, '_', '.', '-'; 128 at "
                             "the most)",
                             tag);
    }
    if (!tag && !digest) tag = (char *)"latest";
    if (tag) {
        ret->tag = strdup(tag);
        if (!ret->tag) return error_set_memory(error);
    }
    return 0;
}

/* `name` is [registry/]repository. */
static int take_registry_and_repository(struct image_reference *ret, char *name,
                                        struct error **error)
{
    const char *registry = "docker.io", *repository = name;
    char *slash = strchr(name, '/');
    if (slash) {
        *slash = '\0';
        if (names_a_registry(name)) {
            registry = name;
            repository = slash + 1;
        } else {
            *slash = '/';
        }
    }
    registry = quirk_registry_name(registry);
    if (!registry_name_is_valid(registry))
        return error_set(error, ERROR_INVALID, "the registry '%s' is not a host[:port]", registry);
    if (!repository_name_is_valid(repository))
        return error_set(error, ERROR_INVALID,
                         "the repository '%s' is not valid (lower-case letters and digits, joined "
                         "by '.', '_', '-' and '/')",
                         repository);
    ret->registry = strdup(registry);
    ret->repository =
        format_text("%s%s", strchr(repository, '/') ? "" : quirk_namespace(registry), repository);
    if (!ret->registry || !ret->repository) return error_set_memory(error);
    /* "library/" may have made it too long. */
    if (!repository_name_is_valid(ret->repository))
        return error_set(error, ERROR_INVALID, "the repository '%s' is longer than %d bytes",
                         ret->repository, NAME_LIMIT);
    return 0;
}

int image_reference_parse(struct image_reference *ret, const char *text, struct error **error)
{
    struct image_reference made = { 0 };
    if (strnlen(text, REFERENCE_LIMIT + 1) > REFERENCE_LIMIT)
        return error_set(error, ERROR_INVALID, "image name '%.40s...': longer than %d bytes", text,
                         REFERENCE_LIMIT);
    if (strstr(text, "://"))
        return error_set(error, ERROR_INVALID,
                         "image name '%s': has a scheme; write it without one", text);
    cleanup_free char *name = strdup(text);
    if (!name) return error_set_memory(error);
    if (take_tag_and_digest(&made, name, error) < 0 ||
        take_registry_and_repository(&made, name, error) < 0) {
        image_reference_free(&made);
        return error_prefix(error, "image name '%s'", text);
    }
    *ret = made;
    return 0;
}

const char *image_reference_target(const struct image_reference *reference)
{
    return reference->digest ? reference->digest : reference->tag;
}

char *image_reference_format(const struct image_reference *reference)
{
    return format_text("%s/%s%s%s%s%s", reference->registry, reference->repository,
                       reference->tag ? ":" : "", reference->tag ? reference->tag : "",
                       reference->digest ? "@" : "", reference->digest ? reference->digest : "");
}

void image_reference_free(struct image_reference *reference)
{
    free(reference->registry);
    free(reference->repository);
    free(reference->tag);
    free(reference->digest);
    *reference = (struct image_reference){ 0 };
}

static bool ends_with_localhost(const char *host, size_t length)
{
    static const char name[] = "localhost";
    size_t size = sizeof name - 1;
    if (length < size || strncasecmp(host + length - size, name, size) != 0) return false;
    return length == size || host[length - size - 1] == '.';
}

bool registry_is_loopback(const char *registry)
{
    char host[NAME_LIMIT + 1];
    size_t length = host_length(registry);
    if (length == 0 || length >= sizeof host) return false;
    if (registry[length] && registry[length] != ':') return false;
    if (ends_with_localhost(registry, length)) return true;
    memcpy(host, registry, length);
    host[length] = '\0';
    if (host[0] == '[') {
        struct in6_addr address;
        host[length - 1] = '\0';
        return inet_pton(AF_INET6, host + 1, &address) == 1 && IN6_IS_ADDR_LOOPBACK(&address);
    }
    /* The whole name must be an address: 127.0.0.1.example.com is somebody else. */
    struct in_addr address;
    return inet_pton(AF_INET, host, &address) == 1 && ntohl(address.s_addr) >> 24 == 127;
}
