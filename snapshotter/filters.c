#include "snapshotter/filters-internal.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "snapshotter/filter_scanner-internal.h"

/* Work that one regular expression may make for one snapshot: far above honest ones. */
#define MATCH_LIMIT 100000u
#define SHOWN       200  /* bytes of a filter in a message */
#define FILTERS_MAX 1000 /* and selectors in each */

enum operator{ PRESENT, EQUAL, UNEQUAL, MATCHES };

enum field { KIND, NAME, PARENT, LABEL, NO_FIELD };

struct selector {
    enum field field;
    char *label; /* of LABEL */
    enum operator operator;
    char *value;            /* NULL of PRESENT */
    pcre2_code *expression; /* of MATCHES; NULL: it is none */
};

struct filter {
    struct selector *selectors;
    size_t count;
};

struct filters {
    struct filter *entries;
    size_t count;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

static void selector_free(struct selector *selector)
{
    free(selector->label);
    free(selector->value);
    pcre2_code_free(selector->expression);
}

void filters_free(struct filters *filters)
{
    if (!filters) return;
    for (size_t i = 0; i < filters->count; i++) {
        for (size_t j = 0; j < filters->entries[i].count; j++)
            selector_free(&filters->entries[i].selectors[j]);
        free(filters->entries[i].selectors);
    }
    free(filters->entries);
    pcre2_match_data_free(filters->match);
    pcre2_match_context_free(filters->limits);
    free(filters);
}

static int refuse(const struct filter_scanner *scanner, const char *what, struct error **error)
{
    return error_set(error, ERROR_INVALID, "filter '%.*s': %s before byte %zu", SHOWN,
                     scanner->text, what, scanner->position + 1);
}

/* What a token says, in fresh memory. */
static char *meaning_of(const struct filter_scanner *scanner, enum filter_token token, size_t start,
                        struct error **error)
{
    const char *text = scanner->text + start;
    size_t length = scanner->position - start;
    bool valid = true;
    char *meaning =
        token == FILTER_QUOTED ? filter_unquote(text, length, &valid) : strndup(text, length);
    if (!valid)
        refuse(scanner, "an escape that is none", error);
    else if (!meaning)
        error_set_memory(error);
    return meaning;
}

static char *parse_field(struct filter_scanner *scanner, struct error **error)
{
    size_t start;
    enum filter_token token = filter_scan(scanner, &start);
    if (token == FILTER_FIELD || (token == FILTER_QUOTED && scanner->text[start] == '"'))
        return meaning_of(scanner, token, start, error);
    refuse(scanner, "no field", error);
    return NULL;
}

static enum field field_named(const char *name)
{
    static const char *const names[] = { "kind", "name", "parent", "labels" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return (enum field)i;
    return NO_FIELD;
}

/* "labels.a.b" is the label "a.b"; what follows other fields says nothing. */
static int parse_field_path(struct filter_scanner *scanner, struct selector *selector,
                            struct error **error)
{
    cleanup_buffer struct buffer rest = { 0 };
    cleanup_free char *first = parse_field(scanner, error);
    if (!first) return -1;
    selector->field = field_named(first);
    while (filter_peek(scanner) == '.') {
        size_t start;
        filter_scan(scanner, &start);
        cleanup_free char *field = parse_field(scanner, error);
        if (!field) return -1;
        if ((rest.length && buffer_append_u8(&rest, '.') < 0) ||
            buffer_append(&rest, field, strlen(field)) < 0)
            return error_set_memory(error);
    }
    if (buffer_append_u8(&rest, 0) < 0) return error_set_memory(error);
    selector->label = (char *)take_pointer(&rest.data);
    return 0;
}

static int parse_operator(struct filter_scanner *scanner, struct selector *selector,
                          struct error **error)
{
    size_t start;
    enum filter_token token = filter_scan(scanner, &start);
    const char *text = scanner->text + start;
    if (token != FILTER_OPERATOR || scanner->position - start != 2 || text[1] != '=')
        return refuse(scanner, "none of ==, != and ~=", error);
    selector->operator= text[0] == '=' ? EQUAL : text[0] == '!' ? UNEQUAL : MATCHES;
    return text[0] == '=' || text[0] == '!' || text[0] == '~'
               ? 0
               : refuse(scanner, "none of ==, != and ~=", error);
}

static int parse_value(struct filter_scanner *scanner, struct selector *selector,
                       struct error **error)
{
    size_t start;
    enum filter_token token = filter_scan(scanner, &start);
    bool usual_quotes = scanner->text[start] == '"' || selector->operator== MATCHES;
    if (token != FILTER_VALUE && token != FILTER_FIELD && !(token == FILTER_QUOTED && usual_quotes))
        return refuse(scanner, "no value", error);
    selector->value = meaning_of(scanner, token, start, error);
    return selector->value ? 0 : -1;
}

/* What Go's regular expressions have, and PCRE reads otherwise, is nothing that people filter by.
 */
static void compile(struct selector *selector)
{
    int code;
    PCRE2_SIZE place;
    selector->expression =
        pcre2_compile((PCRE2_SPTR)selector->value, PCRE2_ZERO_TERMINATED,
                      PCRE2_DOLLAR_ENDONLY | PCRE2_MATCH_INVALID_UTF, &code, &place, NULL);
    if (!selector->expression)
        log_warning("filter: '%.*s' is no regular expression, and matches nothing", SHOWN,
                    selector->value);
}

static int parse_selector(struct filter_scanner *scanner, struct selector *selector,
                          struct error **error)
{
    if (parse_field_path(scanner, selector, error) < 0) return -1;
    char next = filter_peek(scanner);
    if (!next || next == ',') {
        selector->operator= PRESENT;
        return 0;
    }
    if (parse_operator(scanner, selector, error) < 0 || parse_value(scanner, selector, error) < 0)
        return -1;
    if (selector->operator== MATCHES) compile(selector);
    return 0;
}

static int parse_filter(const char *text, struct filter *filter, struct error **error)
{
    struct filter_scanner scanner = { .text = text };
    if (!*text) return 0;
    for (;;) {
        if (filter->count == FILTERS_MAX) return refuse(&scanner, "too many selectors", error);
        struct selector *selectors =
            realloc(filter->selectors, (filter->count + 1) * sizeof *selectors);
        if (!selectors) return error_set_memory(error);
        filter->selectors = selectors;
        selectors[filter->count] = (struct selector){ 0 };
        if (parse_selector(&scanner, &selectors[filter->count++], error) < 0) return -1;
        if (!filter_peek(&scanner)) return 0;
        if (filter_peek(&scanner) != ',') return refuse(&scanner, "no comma", error);
        scanner.position++;
    }
}

int filters_parse(struct filters **ret, const char *const *texts, size_t count,
                  struct error **error)
{
    if (count > FILTERS_MAX)
        return error_set(error, ERROR_INVALID, "more than %d filters", FILTERS_MAX);
    cleanup_filters struct filters *filters = calloc(1, sizeof *filters);
    if (!filters) return error_set_memory(error);
    filters->entries = calloc(count + 1, sizeof *filters->entries);
    filters->match = pcre2_match_data_create(1, NULL);
    filters->limits = pcre2_match_context_create(NULL);
    if (!filters->entries || !filters->match || !filters->limits) return error_set_memory(error);
    pcre2_set_match_limit(filters->limits, MATCH_LIMIT);
    pcre2_set_depth_limit(filters->limits, MATCH_LIMIT);
    for (filters->count = 0; filters->count < count; filters->count++) {
        if (parse_filter(texts[filters->count], &filters->entries[filters->count], error) == 0)
            continue;
        filters->count++;
        return -1;
    }
    *ret = take_pointer(&filters);
    return 0;
}

/* NULL: it is not there. */
static const char *field_of(const struct selector *selector, const struct snapshot_info *info)
{
    static const char *const kinds[] = { "", "view", "active", "committed" };
    switch (selector->field) {
    case KIND:
        return kinds[info->kind];
    case NAME:
        return info->name;
    case PARENT:
        return info->parent;
    case LABEL:
        return labels_get(&info->labels, selector->label);
    default:
        return NULL;
    }
}

static bool matches_expression(const struct filters *filters, const struct selector *selector,
                               const char *text)
{
    return selector->expression &&
           pcre2_match(selector->expression, (PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, 0, 0,
                       filters->match, filters->limits) >= 0;
}

static bool selector_matches(const struct filters *filters, const struct selector *selector,
                             const struct snapshot_info *info)
{
    const char *found = field_of(selector, info);
    const char *text = found ? found : "";
    switch (selector->operator) {
    case PRESENT:
        return found;
    case EQUAL:
        return found && strcmp(text, selector->value) == 0;
    case UNEQUAL:
        return strcmp(text, selector->value) != 0;
    default:
        return matches_expression(filters, selector, text);
    }
}

static bool filter_matches(const struct filters *filters, const struct filter *filter,
                           const struct snapshot_info *info)
{
    for (size_t i = 0; i < filter->count; i++)
        if (!selector_matches(filters, &filter->selectors[i], info)) return false;
    return true;
}

bool filters_match(const struct filters *filters, const struct snapshot_info *info)
{
    for (size_t i = 0; i < filters->count; i++)
        if (filter_matches(filters, &filters->entries[i], info)) return true;
    return filters->count == 0;
}
