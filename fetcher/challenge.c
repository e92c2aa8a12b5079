#include "fetcher/challenge-internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"

/* RFC 9110 section 5.6.2 */
static size_t token_length(const char *text)
{
    return strspn(text, "!#$%&'*+-.^_`|~0123456789"
                        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
}

/* RFC 9110 section 11.2: a scheme may be followed by one token68 instead of parameters. */
static size_t token68_length(const char *text)
{
    size_t length = strspn(text, "-._~+/0123456789"
                                 "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    if (length == 0) return 0;
    length += strspn(text + length, "=");
    const char *behind = text + length + strspn(text + length, " \t");
    return *behind == ',' || !*behind ? length : 0;
}

static const char *skip_blanks(const char *at)
{
    return at + strspn(at, " \t");
}

/* Reads a token or a quoted string at `*at` into fresh memory; NULL: malformed. */
static char *take_value(const char **at)
{
    const char *from = *at;
    if (*from != '"') {
        size_t length = token_length(from);
        *at = from + length;
        return length ? strndup(from, length) : NULL;
    }
    char *value = malloc(strlen(from));
    size_t length = 0;
    if (!value) return NULL;
    for (from++; *from && *from != '"'; from++) {
        if (*from == '\\' && !*++from) break;
        value[length++] = *from;
    }
    if (*from != '"') {
        free(value);
        return NULL;
    }
    value[length] = '\0';
    *at = from + 1;
    return value;
}

/* Keeps what we know by name; the first of two with the same name counts. */
static void keep_parameter(struct challenge *challenge, const char *name, size_t length,
                           char **value)
{
    static const char *const names[] = { "realm", "service", "scope" };
    char **places[] = { &challenge->realm, &challenge->service, &challenge->scope };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (length != strlen(names[i]) || strncasecmp(name, names[i], length) != 0) continue;
        if (!*places[i]) *places[i] = take_pointer(value);
        return;
    }
}

/* One "name = value" at `*at`, where the name's length is known. */
static bool take_parameter(const char **at, size_t name_length, struct challenge *keep)
{
    const char *name = *at;
    *at = skip_blanks(name + name_length) + 1; /* behind the '=' */
    *at = skip_blanks(*at);
    cleanup_free char *value = take_value(at);
    if (!value) return false;
    if (keep) keep_parameter(keep, name, name_length, &value);
    *at = skip_blanks(*at);
    return !**at || **at == ',';
}

/*
 * The grammar is a list of schemes and parameters with the same separator
 * between both: a token followed by '=' belongs to the scheme before it, any
 * other token starts the next challenge.
 */
static bool walk(const char *value, const char *scheme, struct challenge *ret)
{
    bool found = false;
    for (const char *at = value;;) {
        at += strspn(at, " \t,");
        if (!*at) return found;
        size_t length = token_length(at);
        if (length == 0) return false;
        if (*skip_blanks(at + length) == '=') {
            if (!take_parameter(&at, length, found ? ret : NULL)) return false;
            continue;
        }
        if (found) return true;
        found = length == strlen(scheme) && strncasecmp(at, scheme, length) == 0;
        at += length;
        if (*at && *at != ' ' && *at != ',') return false;
        at = skip_blanks(at);
        at += token68_length(at);
    }
}

bool challenge_find(const char *value, const char *scheme, struct challenge *ret)
{
    *ret = (struct challenge){ 0 };
    if (strnlen(value, CHALLENGE_LIMIT + 1) > CHALLENGE_LIMIT) return false;
    if (walk(value, scheme, ret)) return true;
    challenge_free(ret);
    return false;
}

void challenge_free(struct challenge *challenge)
{
    free(challenge->realm);
    free(challenge->service);
    free(challenge->scope);
    *challenge = (struct challenge){ 0 };
}
