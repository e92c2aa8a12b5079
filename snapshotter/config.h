/*
 * sluiced's configuration: a TOML file, every key of which has a default, so that none is needed.
 * docs/man/sluiced-config.5 lists the keys.
 */
#ifndef SLUICE_SNAPSHOTTER_CONFIG_H
#define SLUICE_SNAPSHOTTER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/log.h"
#include "node/fill.h"
#include "node/front.h"
#include "node/node_cache.h"
#include "node/trust.h"

/* Read where --config is not given, if it is there. */
#define CONFIG_FILE "/etc/sluice/config.toml"

struct config_texts {
    char **entries;
    size_t count;
};

/* Texts are owned. */
struct config {
    char *root;    /* the snapshots, and what is known of images */
    char *address; /* the socket that containerd's proxy plugin names */
    struct {
        enum log_level level;
        enum log_format format;
    } log;
    struct {
        bool remap_ids;                    /* containerd was told so */
        struct config_texts mount_options; /* more of overlay's */
    } snapshots;
    struct {
        char *directory; /* or NULL: "cache" below the root */
        struct node_cache_limits limits;
    } cache;
    struct {
        char *hosts_directory; /* as containerd's certs.d, or NULL: struct registry_options */
    } registry;
    struct {
        bool enabled;
        enum index_trust trust;
        uint64_t budget_ms;      /* to decide whether an image is lazy */
        uint64_t retry_after_ms; /* an image without an index is looked at again */
        enum front_kind front;
        bool profile;
        uint64_t prefetch_limit; /* bytes; 0: half of the cache's size */
        enum fill_mode fill;
        uint64_t fill_rate;       /* bytes a second; 0: not bounded */
        uint64_t read_timeout_ms; /* a read that waits for so long is EIO */
    } lazy;
    struct {
        uint64_t
            watchdog_ms; /* a server that has answered nothing for so long is killed; 0: none */
    } server;
    struct {
        char *path; /* where Podman and CRI-O find layers of lazy images, or NULL */
    } layer_store;
    struct {
        char *socket;
    } holder;
    struct {
        char *image_service;      /* socket for kubelet's --image-service-endpoint, or NULL */
        char *containerd;         /* whose CRI it passes calls on to */
        char *provider_config;    /* kubelet's --image-credential-provider-config, or NULL */
        char *provider_directory; /* --image-credential-provider-bin-dir, or NULL */
        uint64_t keep_ms;         /* what CRI gave is forgotten after this; 0: never */
    } credentials;
    struct {
        char *address; /* "host:port" for Prometheus and health, or NULL */
        bool images;   /* there are metrics of each lazy image */
    } metrics;
};

/* Defaults, then what the file says. `path` NULL: CONFIG_FILE, which need not be there. An unknown
 * key is ERROR_INVALID: it would be a setting that does nothing. */
int config_load(struct config *ret, const char *path, struct error **error);
/* "error", "warning", "info" or "debug". */
int config_log_level(const char *text, enum log_level *ret, struct error **error);
void config_free(struct config *config);

#endif
