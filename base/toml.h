/*
 * TOML (https://toml.io/en/v1.0.0), which has no C library: as JSON, for which
 * there is one. C++ behind, C before.
 */
#ifndef SLUICE_BASE_TOML_H
#define SLUICE_BASE_TOML_H

#include <stddef.h>

#define TOML_MESSAGE_SIZE 160

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The document as JSON text in fresh memory: keys in the order of the file, dates and times as
 * strings, what JSON has no number for as null. NULL: `*ret_line` and `message` say what is wrong
 * with it; line 0 means that memory is short.
 */
char *toml_as_json(const char *text, size_t length, unsigned *ret_line,
                   char message[TOML_MESSAGE_SIZE]);

#ifdef __cplusplus
}
#endif

#endif
