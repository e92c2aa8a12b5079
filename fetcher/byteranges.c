#include "fetcher/byteranges-internal.h"

#include <string.h>
#include <strings.h>

#include "fetcher/content_range-internal.h"

/* ---- the boundary ---- */

/* RFC 2046 section 5.1.1, without the space, which nobody uses and many forget to quote. */
static bool is_boundary_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("'()+_,-./:=?", c));
}

static const char *skip_space(const char *at)
{
    return at + strspn(at, " \t");
}

/* The end of a parameter's value; NULL: it has none. */
static const char *value_end(const char *value)
{
    if (*value != '"') return value + strcspn(value, "; \t");
    const char *end = strchr(value + 1, '"');
    return end ? end + 1 : NULL;
}

static bool take_boundary(struct byteranges *parser, const char *value, const char *end)
{
    bool quoted = *value == '"';
    size_t length = (size_t)(end - value) - (quoted ? 2 : 0);
    value += quoted ? 1 : 0;
    if (parser->delimiter_length || length == 0 || length > BYTERANGES_BOUNDARY_MAX) return false;
    for (size_t i = 0; i < length; i++)
        if (!is_boundary_character(value[i])) return false;
    memcpy(parser->delimiter, "--", 2);
    memcpy(parser->delimiter + 2, value, length);
    parser->delimiter_length = length + 2;
    return true;
}

static bool find_boundary(struct byteranges *parser, const char *at)
{
    do {
        const char *name = skip_space(at);
        size_t length = strcspn(name, "=; \t");
        if (name[length] != '=') return false;
        const char *value = name + length + 1, *end = value_end(value);
        if (!end) return false;
        if (length == 8 && strncasecmp(name, "boundary", 8) == 0 &&
            !take_boundary(parser, value, end))
            return false;
        at = skip_space(end);
    } while (*at++ == ';');
    return !at[-1] && parser->delimiter_length > 0;
}

int byteranges_begin(struct byteranges *parser, const char *parameters, struct error **error)
{
    *parser = (struct byteranges){ .place = BYTERANGES_BEFORE };
    if (find_boundary(parser, parameters)) return 0;
    return error_set(error, ERROR_INVALID, "the answer in parts does not say what is between them");
}

/* ---- lines ---- */

/* True: the line is there, without its end. */
static bool take_line(struct byteranges *parser, const uint8_t **data, size_t *length,
                      bool *ret_bad)
{
    *ret_bad = false;
    while (*length > 0) {
        char c = (char)*(*data)++;
        --*length;
        size_t used = parser->line_length;
        bool ends = c == '\n' && used > 0 && parser->line[used - 1] == '\r';
        if (ends) {
            parser->line[used - 1] = '\0';
            parser->line_length = 0;
            return true;
        }
        *ret_bad = c == '\0' || c == '\n' || (used > 0 && parser->line[used - 1] == '\r') ||
                   used + 1 >= sizeof parser->line;
        if (*ret_bad) return false;
        parser->line[parser->line_length++] = c;
    }
    return false;
}

static enum byteranges_event wrong(struct error **error, const char *what)
{
    error_set(error, ERROR_INVALID, "the answer in parts is malformed: %s", what);
    return BYTERANGES_WRONG;
}

static bool is_close(const struct byteranges *parser)
{
    size_t length = parser->delimiter_length;
    return parser->line_length == length + 2 &&
           memcmp(parser->line, parser->delimiter, length) == 0 &&
           memcmp(parser->line + length, "--", 2) == 0;
}

/* The delimiter must come next; RFC 2046 allows white space behind it, and servers begin with
 * empty lines. Behind the last one there may be no line's end. */
static enum byteranges_event take_delimiter(struct byteranges *parser, const uint8_t **data,
                                            size_t *length, struct error **error)
{
    while (*length > 0) {
        bool bad;
        size_t one = 1;
        bool complete = take_line(parser, data, &one, &bad);
        --*length;
        if (bad || parser->lines > BYTERANGES_LINES_MAX)
            return wrong(error, "no boundary where a part should begin");
        if (!complete && is_close(parser)) {
            parser->place = BYTERANGES_OVER;
            return BYTERANGES_END;
        }
        if (!complete) continue;
        parser->lines++;
        if (!parser->line[0]) continue;
        if (strncmp(parser->line, parser->delimiter, parser->delimiter_length) != 0 ||
            *skip_space(parser->line + parser->delimiter_length))
            return wrong(error, "no boundary where a part should begin");
        parser->place = BYTERANGES_HEADERS;
        parser->lines = 0;
        parser->has_range = false;
        break;
    }
    return BYTERANGES_MORE;
}

/* ---- the headers of a part ---- */

static bool take_header(struct byteranges *parser)
{
    static const char name[] = "Content-Range:";
    char *line = parser->line;
    if (strncasecmp(line, name, sizeof name - 1) != 0) return strchr(line, ':') != NULL;
    if (parser->has_range) return false;
    char *value = line + strspn(line + sizeof name - 1, " \t") + sizeof name - 1;
    for (size_t end = strlen(value); end > 0 && strchr(" \t", value[end - 1]); end--)
        value[end - 1] = '\0';
    parser->has_range = content_range_parse(value, &parser->first, &parser->last);
    return parser->has_range && parser->first <= parser->last;
}

static enum byteranges_event take_headers(struct byteranges *parser, const uint8_t **data,
                                          size_t *length, struct error **error)
{
    bool bad;
    while (take_line(parser, data, length, &bad)) {
        if (++parser->lines > BYTERANGES_LINES_MAX) return wrong(error, "a part has many headers");
        if (!parser->line[0]) {
            if (!parser->has_range) return wrong(error, "a part does not say which bytes it has");
            parser->left = parser->last - parser->first + 1;
            parser->place = BYTERANGES_INSIDE;
            parser->lines = 0;
            return BYTERANGES_PART;
        }
        if (strchr(" \t", parser->line[0]) || !take_header(parser))
            return wrong(error, "a header of a part");
    }
    return bad ? wrong(error, "a header of a part") : BYTERANGES_MORE;
}

/* ---- what comes next ---- */

static enum byteranges_event take_bytes(struct byteranges *parser, const uint8_t **data,
                                        size_t *length, const uint8_t **ret_bytes,
                                        size_t *ret_length)
{
    size_t count = *length < parser->left ? *length : (size_t)parser->left;
    *ret_bytes = *data;
    *ret_length = count;
    *data += count;
    *length -= count;
    parser->left -= count;
    if (parser->left == 0) parser->place = BYTERANGES_BEFORE;
    return BYTERANGES_BYTES;
}

enum byteranges_event byteranges_next(struct byteranges *parser, const uint8_t **data,
                                      size_t *length, const uint8_t **ret_bytes, size_t *ret_length,
                                      struct error **error)
{
    *ret_bytes = NULL;
    *ret_length = 0;
    if (parser->place == BYTERANGES_BEFORE) {
        enum byteranges_event event = take_delimiter(parser, data, length, error);
        if (event != BYTERANGES_MORE) return event;
    }
    if (*length == 0 || parser->place == BYTERANGES_OVER) return BYTERANGES_MORE;
    if (parser->place == BYTERANGES_HEADERS) return take_headers(parser, data, length, error);
    return take_bytes(parser, data, length, ret_bytes, ret_length);
}
