#include "index/image_process.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"

/* execve(2) has its own bounds; these keep an odd config from getting so far. */
#define TEXTS_MAX 4096u

static void free_texts(char **texts)
{
    for (char **text = texts; text && *text; text++)
        free(*text);
    free(texts);
}

void image_process_free(struct image_process *process)
{
    free_texts(process->arguments);
    free_texts(process->environment);
    free(process->directory);
    free(process->user);
    *process = (struct image_process){ 0 };
}

/* Appends a list of strings; one that is missing or null is empty. */
static int append_texts(const json_t *config, const char *field, char ***texts, size_t *count,
                        struct error **error)
{
    const json_t *list = json_object_get(config, field);
    size_t more = json_array_size(list);
    if (list && !json_is_null(list) && !json_is_array(list))
        return error_set(error, ERROR_INVALID, "'%s' is no list", field);
    if (more > TEXTS_MAX) return error_set(error, ERROR_UNSUPPORTED, "'%s' is too long", field);
    char **grown = realloc(*texts, (*count + more + 1) * sizeof *grown);
    if (!grown) return error_set_memory(error);
    *texts = grown;
    for (size_t i = 0; i < more; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        grown[*count] = text ? strdup(text) : NULL;
        if (!text) return error_set(error, ERROR_INVALID, "'%s' holds what is no text", field);
        if (!grown[*count]) return error_set_memory(error);
        ++*count;
        grown[*count] = NULL;
    }
    grown[*count] = NULL;
    return 0;
}

static char *text_or(const json_t *config, const char *field, const char *otherwise)
{
    const char *text = json_optional_text(config, field);
    return strdup(text && *text ? text : otherwise);
}

int image_process_parse(struct image_process *ret, const void *config, size_t length,
                        struct error **error)
{
    *ret = (struct image_process){ 0 };
    cleanup_json json_t *root = json_read_object(config, length, "image config", error);
    if (!root) return -1;
    const json_t *process = json_object_get(root, "config");
    int result = append_texts(process, "Entrypoint", &ret->arguments, &ret->argument_count, error);
    if (result == 0)
        result = append_texts(process, "Cmd", &ret->arguments, &ret->argument_count, error);
    if (result == 0)
        result = append_texts(process, "Env", &ret->environment, &ret->environment_count, error);
    if (result == 0) {
        ret->directory = text_or(process, "WorkingDir", "/");
        ret->user = text_or(process, "User", "");
        if (!ret->directory || !ret->user)
            result = error_set_memory(error);
        else if (ret->directory[0] != '/')
            result = error_set(error, ERROR_INVALID, "'WorkingDir' is not absolute");
    }
    if (result < 0) {
        image_process_free(ret);
        return error_prefix(error, "image config");
    }
    return 0;
}
