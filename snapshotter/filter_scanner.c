#include "snapshotter/filter_scanner-internal.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static bool is_field(unsigned char c)
{
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_space(unsigned char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_operator(unsigned char c)
{
    return c == '=' || c == '!' || c == '~';
}

/* Bytes of characters beyond ASCII are taken as part of a value whatever they mean. */
static bool is_value(unsigned char c)
{
    return c > ' ' && c != ',' && c != 0x7f;
}

char filter_peek(const struct filter_scanner *scanner)
{
    return scanner->text[scanner->position];
}

static enum filter_token scan_run(struct filter_scanner *scanner, bool (*belongs)(unsigned char),
                                  enum filter_token token)
{
    while (belongs((unsigned char)filter_peek(scanner)))
        scanner->position++;
    return token;
}

static enum filter_token scan_quoted(struct filter_scanner *scanner)
{
    char quote = filter_peek(scanner);
    for (;;) {
        char c = scanner->text[++scanner->position];
        if (c == quote) break;
        if (c == '\\') c = scanner->text[++scanner->position];
        if (!c || c == '\n') return FILTER_ILLEGAL;
    }
    scanner->position++;
    return FILTER_QUOTED;
}

enum filter_token filter_scan(struct filter_scanner *scanner, size_t *ret_start)
{
    while (is_space((unsigned char)filter_peek(scanner)))
        scanner->position++;
    *ret_start = scanner->position;
    bool after_operator = scanner->after_operator;
    scanner->after_operator = false;
    unsigned char c = (unsigned char)filter_peek(scanner);
    if (!c) return FILTER_END;
    if (strchr("\"/|", c)) return scan_quoted(scanner);
    if (c == ',' || c == '.') {
        scanner->position++;
        return FILTER_SEPARATOR;
    }
    if (is_operator(c)) {
        scanner->after_operator = true;
        return scan_run(scanner, is_operator, FILTER_OPERATOR);
    }
    if (after_operator && is_value(c)) return scan_run(scanner, is_value, FILTER_VALUE);
    if (is_field(c)) return scan_run(scanner, is_field, FILTER_FIELD);
    scanner->position++;
    return FILTER_ILLEGAL;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 16;
}

/* Exactly `count` digits at `*text`. */
static bool read_digits(const char **text, const char *end, int base, int count, uint32_t *ret)
{
    uint32_t value = 0;
    for (int i = 0; i < count; i++, (*text)++) {
        int digit = *text < end ? digit_of(**text) : 16;
        if (digit >= base) return false;
        value = value * (uint32_t)base + (uint32_t)digit;
    }
    *ret = value;
    return true;
}

static char *put_utf8(char *to, uint32_t rune)
{
    if (rune < 0x80) {
        *to++ = (char)rune;
    } else if (rune < 0x800) {
        *to++ = (char)(0xc0 | (rune >> 6));
        *to++ = (char)(0x80 | (rune & 0x3f));
    } else if (rune < 0x10000) {
        *to++ = (char)(0xe0 | (rune >> 12));
        *to++ = (char)(0x80 | ((rune >> 6) & 0x3f));
        *to++ = (char)(0x80 | (rune & 0x3f));
    } else {
        *to++ = (char)(0xf0 | (rune >> 18));
        *to++ = (char)(0x80 | ((rune >> 12) & 0x3f));
        *to++ = (char)(0x80 | ((rune >> 6) & 0x3f));
        *to++ = (char)(0x80 | (rune & 0x3f));
    }
    return to;
}

/* A NUL cannot be in what it is compared with. */
static bool is_rune(uint32_t rune)
{
    return rune && rune <= 0x10ffff && !(rune >= 0xd800 && rune < 0xe000);
}

/* The escape whose letter is at `*from`, to `*to`. No escape is shorter than what it means. */
static bool unescape(const char **from, const char *end, char quote, char **to)
{
    static const char letters[] = "abfnrtv\\", meanings[] = "\a\b\f\n\r\t\v\\";
    if (*from == end) return false;
    char c = *(*from)++;
    const char *letter = strchr(letters, c);
    uint32_t value = 0;
    if (c == quote || letter) {
        *(*to)++ = letter ? meanings[letter - letters] : c;
        return true;
    }
    if (c == 'u' || c == 'U') {
        if (!read_digits(from, end, 16, c == 'u' ? 4 : 8, &value) || !is_rune(value)) return false;
        *to = put_utf8(*to, value);
        return true;
    }
    if (c == 'x') {
        if (!read_digits(from, end, 16, 2, &value)) return false;
    } else {
        (*from)--;
        if (!read_digits(from, end, 8, 3, &value)) return false;
    }
    if (!value || value > 255) return false;
    *(*to)++ = (char)value;
    return true;
}

char *filter_unquote(const char *token, size_t length, bool *ret_valid)
{
    char *meaning = malloc(length), *to = meaning;
    *ret_valid = true;
    if (!meaning) return NULL;
    const char *from = token + 1, *end = token + length - 1;
    while (from < end) {
        char c = *from++;
        if (c != '\\') {
            *to++ = c;
        } else if (!unescape(&from, end, token[0], &to)) {
            free(meaning);
            *ret_valid = false;
            return NULL;
        }
    }
    *to = 0;
    return meaning;
}
