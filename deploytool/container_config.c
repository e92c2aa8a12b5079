/* https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config.md */
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "deploytool/container-internal.h"

static json_t *texts(const char *const *list)
{
    json_t *array = json_array();
    for (; *list; list++)
        json_array_append_new(array, json_string(*list));
    return array;
}

/* What docker gives, without CAP_MKNOD (no device cgroup stands behind it), CAP_NET_RAW and
 * CAP_AUDIT_WRITE. */
static json_t *capabilities(void)
{
    static const char *const kept[] = { "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",
                                        "CAP_FOWNER",  "CAP_SETGID",       "CAP_SETUID",
                                        "CAP_SETPCAP", "CAP_SETFCAP",      "CAP_NET_BIND_SERVICE",
                                        "CAP_KILL",    "CAP_SYS_CHROOT",   NULL };
    return json_pack("{s:o, s:o, s:o}", "bounding", texts(kept), "effective", texts(kept),
                     "permitted", texts(kept));
}

static json_t *environment(const struct image_process *process)
{
    json_t *list = json_array();
    bool has_path = false;
    for (size_t i = 0; i < process->environment_count; i++) {
        has_path |= strncmp(process->environment[i], "PATH=", 5) == 0;
        json_array_append_new(list, json_string(process->environment[i]));
    }
    if (!has_path)
        json_array_append_new(
            list, json_string("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    return list;
}

static json_t *process_json(const struct image_process *process, const struct container_user *user)
{
    json_t *groups = json_array(), *arguments = json_array();
    for (size_t i = 0; i < user->group_count; i++)
        json_array_append_new(groups, json_integer((json_int_t)user->groups[i]));
    for (size_t i = 0; i < process->argument_count; i++)
        json_array_append_new(arguments, json_string(process->arguments[i]));
    return json_pack("{s:b, s:{s:I, s:I, s:o}, s:o, s:o, s:s, s:o, s:b}", "terminal", 0, "user",
                     "uid", (json_int_t)user->uid, "gid", (json_int_t)user->gid, "additionalGids",
                     groups, "args", arguments, "env", environment(process), "cwd",
                     process->directory, "capabilities", capabilities(), "noNewPrivileges", 1);
}

static void add_mount(json_t *mounts, const char *target, const char *type, const char *source,
                      const char *const *options)
{
    json_array_append_new(mounts, json_pack("{s:s, s:s, s:s, s:o}", "destination", target, "type",
                                            type, "source", source, "options", texts(options)));
}

static json_t *mounts_json(bool own_network)
{
    static const char *const quiet[] = { "nosuid", "noexec", "nodev", NULL };
    static const char *const quiet_read_only[] = { "nosuid", "noexec", "nodev", "ro", NULL };
    static const char *const dev[] = { "nosuid", "strictatime", "mode=755", "size=65536k", NULL };
    static const char *const pts[] = { "nosuid",        "noexec",    "newinstance",
                                       "ptmxmode=0666", "mode=0620", NULL };
    static const char *const shm[] = { "nosuid", "noexec", "nodev", "mode=1777", NULL };
    static const char *const bind[] = { "bind", "ro", "nosuid", "noexec", "nodev", NULL };
    json_t *mounts = json_array();
    add_mount(mounts, "/proc", "proc", "proc", quiet);
    add_mount(mounts, "/dev", "tmpfs", "tmpfs", dev);
    add_mount(mounts, "/dev/pts", "devpts", "devpts", pts);
    add_mount(mounts, "/dev/shm", "tmpfs", "shm", shm);
    add_mount(mounts, "/dev/mqueue", "mqueue", "mqueue", quiet);
    add_mount(mounts, "/sys", "sysfs", "sysfs", quiet_read_only);
    /* With the machine's network go its names. */
    static const char *const names[] = { "/etc/resolv.conf", "/etc/hosts" };
    for (size_t i = 0; !own_network && i < 2; i++)
        if (access(names[i], R_OK) == 0) add_mount(mounts, names[i], "bind", names[i], bind);
    return mounts;
}

static json_t *linux_json(bool own_network)
{
    static const char *const masked[] = { "/proc/acpi",
                                          "/proc/asound",
                                          "/proc/kcore",
                                          "/proc/keys",
                                          "/proc/latency_stats",
                                          "/proc/timer_list",
                                          "/proc/timer_stats",
                                          "/proc/sched_debug",
                                          "/proc/scsi",
                                          "/sys/firmware",
                                          NULL };
    static const char *const read_only[] = { "/proc/bus",           "/proc/fs",
                                             "/proc/irq",           "/proc/sys",
                                             "/proc/sysrq-trigger", NULL };
    json_t *namespaces = json_pack("[{s:s}, {s:s}, {s:s}, {s:s}]", "type", "pid", "type", "ipc",
                                   "type", "uts", "type", "mount");
    if (own_network) json_array_append_new(namespaces, json_pack("{s:s}", "type", "network"));
    return json_pack("{s:o, s:o, s:o}", "namespaces", namespaces, "maskedPaths", texts(masked),
                     "readonlyPaths", texts(read_only));
}

int container_config_write(const struct container_options *options, const char *path,
                           struct error **error)
{
    struct container_user user;
    if (container_user_find(options->root, options->process->user, &user, error) < 0) return -1;
    cleanup_json json_t *root = json_pack(
        "{s:s, s:{s:s}, s:s, s:o, s:o, s:o}", "ociVersion", "1.0.2", "root", "path", options->root,
        "hostname", "sluice", "process", process_json(options->process, &user), "mounts",
        mounts_json(options->own_network), "linux", linux_json(options->own_network));
    cleanup_free char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    /* jansson holds UTF-8 only, and that is what a config's JSON is, too. */
    if (!text)
        return error_set(error, ERROR_INVALID,
                         "the command, or what the image says of it, is no UTF-8");
    return file_write_atomic(path, text, strlen(text), 0600, error);
}
