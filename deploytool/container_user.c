#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/openat2.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "deploytool/container-internal.h"

/* Symbolic links in the tree lead to places in the tree. NULL: there is no such file. */
static FILE *open_in_tree(const char *root, const char *path)
{
    cleanup_close int directory = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
                            .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
    if (directory < 0) return NULL;
    int file = (int)syscall(SYS_openat2, directory, path, &how, sizeof how);
    FILE *stream = file < 0 ? NULL : fdopen(file, "r");
    if (file >= 0 && !stream) close(file);
    return stream;
}

static bool parse_id(const char *text, unsigned *ret)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9' || value >= UINT32_MAX) return false;
    *ret = (unsigned)value;
    return true;
}

/* A longer line ends the search, as if the file ended there. */
#define LINE_ROOM 65536u

static const struct passwd *next_user(FILE *file, struct passwd *entry, char *room)
{
    struct passwd *found;
    return file && fgetpwent_r(file, entry, room, LINE_ROOM, &found) == 0 ? found : NULL;
}

static const struct group *next_group(FILE *file, struct group *entry, char *room)
{
    struct group *found;
    return file && fgetgrent_r(file, entry, room, LINE_ROOM, &found) == 0 ? found : NULL;
}

/* By name or number; `ret_name` (may be NULL in the end) is what the file calls the user. */
static bool find_user(const char *root, const char *text, struct container_user *ret,
                      char **ret_name)
{
    unsigned id = 0;
    bool number = parse_id(text, &id), found = false;
    FILE *file = open_in_tree(root, "etc/passwd");
    char room[LINE_ROOM];
    struct passwd entry;
    while (!found && next_user(file, &entry, room)) {
        found = number ? entry.pw_uid == id : strcmp(entry.pw_name, text) == 0;
        if (!found) continue;
        ret->uid = entry.pw_uid;
        ret->gid = entry.pw_gid;
        *ret_name = strdup(entry.pw_name);
    }
    if (file) fclose(file);
    if (number) ret->uid = id;
    return found || number;
}

static bool find_group(const char *root, const char *text, gid_t *ret)
{
    unsigned id = 0;
    if (parse_id(text, &id)) {
        *ret = id;
        return true;
    }
    bool found = false;
    FILE *file = open_in_tree(root, "etc/group");
    char room[LINE_ROOM];
    struct group entry;
    while (!found && next_group(file, &entry, room))
        if ((found = strcmp(entry.gr_name, text) == 0)) *ret = entry.gr_gid;
    if (file) fclose(file);
    return found;
}

static void add_groups(const char *root, const char *name, struct container_user *user)
{
    FILE *file = open_in_tree(root, "etc/group");
    char room[LINE_ROOM];
    struct group entry;
    while (user->group_count < CONTAINER_GROUPS_MAX && next_group(file, &entry, room))
        for (char **member = entry.gr_mem; *member; member++) {
            if (strcmp(*member, name) != 0) continue;
            user->groups[user->group_count++] = entry.gr_gid;
            break;
        }
    if (file) fclose(file);
}

int container_user_find(const char *root, const char *text, struct container_user *ret,
                        struct error **error)
{
    *ret = (struct container_user){ 0 };
    cleanup_free char *user = strdup(*text ? text : "0"), *name = NULL;
    if (!user) return error_set_memory(error);
    char *group = strchr(user, ':');
    if (group) *group++ = '\0';
    if (!find_user(root, user, ret, &name))
        return error_set(error, ERROR_NOT_FOUND, "the image has no user '%s'", user);
    if (group && *group && !find_group(root, group, &ret->gid))
        return error_set(error, ERROR_NOT_FOUND, "the image has no group '%s'", group);
    /* As the engines do: a group that was named is the only one. */
    if (name && !group) add_groups(root, name, ret);
    return 0;
}
