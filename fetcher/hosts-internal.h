/*
 * Who serves a registry: itself, and mirrors in front of it, as containerd reads it from
 * <directory>/<registry>/hosts.toml
 * (https://github.com/containerd/containerd/blob/main/docs/hosts.md), or else only certificates, as
 * docker reads them there (https://docs.docker.com/engine/security/certificates/).
 */
#ifndef SLUICE_FETCHER_HOSTS_INTERNAL_H
#define SLUICE_FETCHER_HOSTS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"

#define HOSTS_LIMIT 32 /* of one registry */

enum host_capability {
    HOST_PULL = 1,    /* what has a digest */
    HOST_RESOLVE = 2, /* may say what a tag means */
    HOST_PUSH = 4,
    HOST_EVERYTHING = HOST_PULL | HOST_RESOLVE | HOST_PUSH,
};

struct host_settings {
    char *api;             /* "https://mirror:5000/v2"; NULL: of the registry itself */
    unsigned capabilities; /* enum host_capability */
    bool tls_configured;   /* something was said that only TLS has */
    bool skip_verify;
    struct buffer authorities; /* PEM certificates that are trusted besides the system's */
    char *client_certificate;  /* a PEM file; NULL: none */
    char *client_key;          /* NULL: in the same file */
    char **headers;            /* "Name: value"; may hold secrets */
    size_t header_count;
};

struct host_list {
    struct host_settings *hosts; /* to be asked in this order */
    size_t count;
};

/* Reads what the first of `directories` (ends with NULL) that knows `registry` says of it, or where
 * none does, gives the registry itself. */
int hosts_find(char *const *directories, const char *registry, struct host_list *ret,
               struct error **error);
void host_list_free(struct host_list *list);
void host_settings_free(struct host_settings *host);

/* The directories that are looked at where nobody names one: containerd's and docker's, for users
 * other than root those in their home first. */
char **hosts_default_directories(struct error **error);
/* A list of this one directory, which must exist; made absolute. */
char **hosts_one_directory(const char *directory, struct error **error);
void hosts_directories_free(char **directories);

/* hosts_file.c: the text of the file `path`, which is in `directory`. */
int hosts_file_parse(const char *directory, const char *path, const struct buffer *text,
                     struct host_list *ret, struct error **error);

/* A host of `list` with its defaults; NULL: out of memory, or HOSTS_LIMIT is reached. */
struct host_settings *host_list_add(struct host_list *list, struct error **error);
/* Appends the certificates of the PEM file `path`. */
int host_settings_trust(struct host_settings *host, const char *path, struct error **error);
/* Takes the paths over; the first pair counts. `key` may be NULL. */
int host_settings_identify(struct host_settings *host, char *certificate, char *key,
                           struct error **error);

#endif
