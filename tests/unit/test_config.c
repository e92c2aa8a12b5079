/* sluiced's configuration file: defaults, every key, and what is wrong with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "snapshotter/config.h"
#include "temporary_directory.h"

static char *directory;

static int load(struct config *ret, const char *text, struct error **error)
{
    char *path = format_text("%s/config.toml", directory);
    assert_int_equal(file_write_atomic(path, text, strlen(text), 0644, NULL), 0);
    int result = config_load(ret, path, error);
    free(path);
    return result;
}

static struct config loaded(const char *text)
{
    struct config config;
    struct error *error = NULL;
    if (load(&config, text, &error) < 0) fail_msg("%s", error_message(error));
    return config;
}

static void assert_refused(const char *text, const char *reason)
{
    struct config config;
    struct error *error = NULL;
    assert_int_equal(load(&config, text, &error), -1);
    if (!strstr(error_message(error), reason))
        fail_msg("no '%s' in: %s", reason, error_message(error));
    error_free(error);
}

static void an_empty_file_means_the_defaults(void **state)
{
    (void)state;
    struct config config = loaded("");
    assert_string_equal(config.root, "/var/lib/sluice");
    assert_string_equal(config.address, "/run/sluice/snapshotter.sock");
    assert_string_equal(config.holder.socket, "/run/sluice/holder.sock");
    assert_null(config.cache.directory);
    assert_null(config.metrics.address);
    assert_null(config.credentials.image_service);
    assert_true(config.lazy.enabled);
    assert_int_equal(config.lazy.trust, TRUST_REFERRER);
    assert_int_equal(config.lazy.budget_ms, 5000);
    assert_int_equal(config.lazy.fill, FILL_IDLE);
    assert_int_equal(config.server.watchdog_ms, 10000);
    assert_int_equal(config.log.level, LOG_INFO);
    config_free(&config);
}

static void every_key_arrives(void **state)
{
    (void)state;
    struct config config = loaded("root = '/r'\n"
                                  "address = '/a.sock'\n"
                                  "[log]\nlevel = 'debug'\nformat = 'json'\n"
                                  "[snapshots]\nremap_ids = true\n"
                                  "mount_options = ['volatile', 'metacopy=on']\n"
                                  "[cache]\ndirectory = '/c'\nsize = '20GiB'\nreserve = '1GiB'\n"
                                  "[registry]\nconfig_path = '/certs.d'\n"
                                  "[lazy]\nenabled = false\ntrust = 'pinned'\nbudget = '1500ms'\n"
                                  "retry_after = '2m'\nfront = 'fuse'\nprofile = false\n"
                                  "prefetch_limit = '64MiB'\nfill = 'now'\nfill_rate = '10MB'\n"
                                  "read_timeout = '30s'\n"
                                  "[server]\nwatchdog = '0s'\n"
                                  "[holder]\nsocket = '/h.sock'\n"
                                  "[credentials]\nimage_service = '/i.sock'\n"
                                  "containerd = '/cd.sock'\nprovider_config = '/p.yaml'\n"
                                  "provider_directory = '/p'\nkeep = '1h'\n"
                                  "[metrics]\naddress = '127.0.0.1:9000'\n");
    assert_string_equal(config.root, "/r");
    assert_string_equal(config.address, "/a.sock");
    assert_int_equal(config.log.level, LOG_DEBUG);
    assert_int_equal(config.log.format, LOG_FORMAT_JSON);
    assert_true(config.snapshots.remap_ids);
    assert_int_equal(config.snapshots.mount_options.count, 2);
    assert_string_equal(config.snapshots.mount_options.entries[1], "metacopy=on");
    assert_string_equal(config.cache.directory, "/c");
    assert_int_equal(config.cache.limits.size, (uint64_t)20 << 30);
    assert_true(config.cache.limits.reserve_given);
    assert_int_equal(config.cache.limits.reserve, (uint64_t)1 << 30);
    assert_string_equal(config.registry.hosts_directory, "/certs.d");
    assert_false(config.lazy.enabled);
    assert_int_equal(config.lazy.trust, TRUST_PINNED);
    assert_int_equal(config.lazy.budget_ms, 1500);
    assert_int_equal(config.lazy.retry_after_ms, 120000);
    assert_true(config.snapshots.remap_ids);
    assert_int_equal(config.lazy.front, FRONT_FUSE);
    assert_false(config.lazy.profile);
    assert_int_equal(config.lazy.prefetch_limit, (uint64_t)64 << 20);
    assert_int_equal(config.lazy.fill, FILL_NOW);
    assert_int_equal(config.lazy.fill_rate, 10000000);
    assert_int_equal(config.lazy.read_timeout_ms, 30000);
    assert_int_equal(config.server.watchdog_ms, 0);
    assert_string_equal(config.holder.socket, "/h.sock");
    assert_string_equal(config.credentials.image_service, "/i.sock");
    assert_string_equal(config.credentials.containerd, "/cd.sock");
    assert_string_equal(config.credentials.provider_config, "/p.yaml");
    assert_string_equal(config.credentials.provider_directory, "/p");
    assert_int_equal(config.credentials.keep_ms, 3600000);
    assert_string_equal(config.metrics.address, "127.0.0.1:9000");
    config_free(&config);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    assert_refused("rot = '/r'", "rot: there is no such key");
    assert_refused("[lasy]\nenabled = true", "lasy: there is no such key");
    assert_refused("[lazy]\nenable = true", "lazy.enable: there is no such key");
    assert_refused("lazy = 1", "lazy: must be a table");
    assert_refused("root = 'relative'", "root: must be an absolute path");
    assert_refused("root = ''", "root: must be an absolute path");
    assert_refused("root = 5", "root: must be an absolute path");
    assert_refused("[snapshots]\nmount_options = 'volatile'", "mount_options: must be a list");
    assert_refused("[snapshots]\nmount_options = ['a', 5]", "mount_options: must be a list");
    assert_refused("[snapshots]\nmount_options = ['a,b']", "mount_options: must be a list");
    assert_refused("[lazy]\nbudget = 5", "lazy.budget: must be a duration");
    assert_refused("[lazy]\nbudget = '5 s'", "lazy.budget: must be a duration");
    assert_refused("[lazy]\nbudget = '-5s'", "lazy.budget: must be a duration");
    assert_refused("[lazy]\nbudget = '99999999999999999999s'", "lazy.budget: must be a duration");
    assert_refused("[lazy]\nbudget = '9999999h'", "lazy.budget: must be a duration");
    assert_refused("[lazy]\nread_timeout = '2m'", "lazy.read_timeout: must be from");
    assert_refused("[server]\nwatchdog = '500ms'", "server.watchdog: must be \"0s\", or from");
    assert_refused("[lazy]\ntrust = 'all'", "lazy.trust: ");
    assert_refused("[lazy]\nenabled = 'yes'", "lazy.enabled: must be true or false");
    assert_refused("[cache]\nsize = '1k'", "cache.size: ");
    assert_refused("[log]\nlevel = 'loud'", "log.level: the log's level must be");
    assert_refused("root = \n", "line 1");
}

static void a_file_that_was_named_must_be_there(void **state)
{
    (void)state;
    struct config config;
    struct error *error = NULL;
    assert_int_equal(config_load(&config, "/nonexistent/config.toml", &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_NOT_FOUND);
    error_free(error);
}

static int set_up(void **state)
{
    (void)state;
    directory = temporary_directory_make();
    return directory ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    temporary_directory_remove(directory);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_file_means_the_defaults),
        cmocka_unit_test(every_key_arrives),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(a_file_that_was_named_must_be_there),
    };
    return cmocka_run_group_tests_name("configuration", tests, set_up, tear_down);
}
