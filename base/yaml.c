#include "base/yaml.h"

#include <stdbool.h>
#include <string.h>
#include <yaml.h>

#include "base/cleanup.h"
#include "base/json.h"

#define DEPTH_MAX 32u
#define NODES_MAX 100000u

struct reading {
    yaml_parser_t parser;
    unsigned nodes;
};

static int refuse(const struct reading *reading, const yaml_event_t *event, const char *why,
                  struct error **error)
{
    size_t line = event ? event->start_mark.line : reading->parser.problem_mark.line;
    return error_set(error, ERROR_INVALID, "line %zu: %s", line + 1, why);
}

/* The next event in `ret`, which is to be deleted after 0. */
static int next(struct reading *reading, yaml_event_t *ret, struct error **error)
{
    if (yaml_parser_parse(&reading->parser, ret)) return 0;
    if (reading->parser.error == YAML_MEMORY_ERROR) return error_set_memory(error);
    /* The parser's texts are of its own, without what it has read. */
    const char *problem = reading->parser.problem;
    return refuse(reading, NULL, problem ? problem : "this is no YAML", error);
}

static json_t *read_node(struct reading *reading, const yaml_event_t *event, unsigned depth,
                         struct error **error);

/* Its key was `event`. */
static int read_member(struct reading *reading, json_t *object, const yaml_event_t *event,
                       unsigned depth, struct error **error)
{
    const char *key = (const char *)event->data.scalar.value;
    yaml_event_t value;
    if (event->type != YAML_SCALAR_EVENT || strlen(key) != event->data.scalar.length)
        return refuse(reading, event, "a key is no text", error);
    if (json_object_get(object, key)) return refuse(reading, event, "a key comes twice", error);
    if (next(reading, &value, error) < 0) return -1;
    json_t *read = read_node(reading, &value, depth, error);
    yaml_event_delete(&value);
    if (!read) return -1;
    return json_object_set_new(object, key, read) < 0 ? error_set_memory(error) : 0;
}

static int read_item(struct reading *reading, json_t *array, const yaml_event_t *event,
                     unsigned depth, struct error **error)
{
    json_t *read = read_node(reading, event, depth, error);
    if (!read) return -1;
    return json_array_append_new(array, read) < 0 ? error_set_memory(error) : 0;
}

/* An object's or an array's content, to its end. */
static int read_content(struct reading *reading, json_t *into, unsigned depth, struct error **error)
{
    yaml_event_type_t last =
        json_is_object(into) ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    for (;;) {
        yaml_event_t event;
        if (next(reading, &event, error) < 0) return -1;
        bool ended = event.type == last;
        int result = 0;
        if (!ended && json_is_object(into))
            result = read_member(reading, into, &event, depth, error);
        else if (!ended)
            result = read_item(reading, into, &event, depth, error);
        yaml_event_delete(&event);
        if (ended || result < 0) return result;
    }
}

static json_t *read_collection(struct reading *reading, json_t *empty, unsigned depth,
                               struct error **error)
{
    cleanup_json json_t *collection = empty;
    if (!collection) {
        error_set_memory(error);
        return NULL;
    }
    if (read_content(reading, collection, depth + 1, error) < 0) return NULL;
    return take_pointer(&collection);
}

static json_t *read_scalar(const struct reading *reading, const yaml_event_t *event,
                           struct error **error)
{
    json_t *text = json_stringn((const char *)event->data.scalar.value, event->data.scalar.length);
    if (!text) refuse(reading, event, "a value is no text", error);
    return text;
}

static bool is_decorated(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.anchor || event->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor || event->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor || event->data.mapping_start.tag;
    default:
        return event->type == YAML_ALIAS_EVENT;
    }
}

static json_t *read_node(struct reading *reading, const yaml_event_t *event, unsigned depth,
                         struct error **error)
{
    const char *why = NULL;
    if (is_decorated(event)) why = "anchors, aliases and tags are not read here";
    if (depth > DEPTH_MAX) why = "this is too deep";
    if (++reading->nodes > NODES_MAX) why = "there is too much before this";
    if (why) {
        refuse(reading, event, why, error);
        return NULL;
    }
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return read_scalar(reading, event, error);
    case YAML_SEQUENCE_START_EVENT:
        return read_collection(reading, json_array(), depth, error);
    case YAML_MAPPING_START_EVENT:
        return read_collection(reading, json_object(), depth, error);
    default:
        refuse(reading, event, "this is no value", error);
        return NULL;
    }
}

/* Reads an event that must be of this type. */
static int expect(struct reading *reading, yaml_event_type_t type, const char *otherwise,
                  struct error **error)
{
    yaml_event_t event;
    if (next(reading, &event, error) < 0) return -1;
    int result = event.type == type ? 0 : refuse(reading, &event, otherwise, error);
    yaml_event_delete(&event);
    return result;
}

static json_t *read_document(struct reading *reading, struct error **error)
{
    cleanup_json json_t *document = NULL;
    yaml_event_t event;
    if (expect(reading, YAML_STREAM_START_EVENT, "this is no YAML", error) < 0 ||
        expect(reading, YAML_DOCUMENT_START_EVENT, "there is nothing", error) < 0 ||
        next(reading, &event, error) < 0)
        return NULL;
    if (event.type == YAML_MAPPING_START_EVENT)
        document = read_node(reading, &event, 0, error);
    else
        refuse(reading, &event, "this is no mapping", error);
    yaml_event_delete(&event);
    if (!document || expect(reading, YAML_DOCUMENT_END_EVENT, "there is more", error) < 0 ||
        expect(reading, YAML_STREAM_END_EVENT, "there is a second document", error) < 0)
        return NULL;
    return take_pointer(&document);
}

/* libyaml knows no tabs between the parts of a JSON text. */
static bool is_json(const char *data, size_t length)
{
    size_t i = 0;
    while (i < length && memchr(" \t\r\n", data[i], 4))
        i++;
    return i < length && data[i] == '{';
}

json_t *yaml_read_object(const void *data, size_t length, const char *what, struct error **error)
{
    struct reading reading = { .nodes = 0 };
    if (is_json(data, length)) return json_read_object(data, length, what, error);
    if (!yaml_parser_initialize(&reading.parser)) {
        error_set_memory(error);
        return NULL;
    }
    yaml_parser_set_input_string(&reading.parser, data, length);
    json_t *document = read_document(&reading, error);
    yaml_parser_delete(&reading.parser);
    if (!document) error_prefix(error, "%s", what);
    return document;
}
