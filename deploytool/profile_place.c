#include "deploytool/profile_place.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "deploytool/container.h"

static void place_free(struct profile_place *place)
{
    if (place->in_use >= 0) close(place->in_use);
    free(place->directory);
    free(place->cache);
    free(place->lower);
    free(place->upper);
    free(place->runtime);
    free(place->root);
    free(place->record);
    free(place);
}

/* ---- the directory ---- */

static int remove_one(const char *path, const struct stat *found, int type, struct FTW *place)
{
    (void)found;
    (void)type;
    (void)place;
    return remove(path);
}

static void remove_directory(const struct profile_place *place)
{
    if (nftw(place->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0)
        log_warning("'%s' was not removed: %s", place->directory, strerror(errno));
}

static int make_directory(struct profile_place *place, struct error **error)
{
    const char *above = getenv("TMPDIR");
    if (!above || above[0] != '/') above = "/var/tmp";
    place->directory = format_text("%s/sluice-profile-XXXXXX", above);
    if (!place->directory) return error_set_memory(error);
    if (!mkdtemp(place->directory))
        return error_set_errno(error, errno, "make a directory below '%s'", above);
    return 0;
}

static int make_inside(struct profile_place *place, struct error **error)
{
    place->cache = format_text("%s/cache", place->directory);
    place->lower = format_text("%s/lower", place->directory);
    place->upper = format_text("%s/upper", place->directory);
    place->runtime = format_text("%s/upper/runtime", place->directory);
    place->root = format_text("%s/root", place->directory);
    place->record = format_text("%s/record", place->directory);
    if (!place->cache || !place->lower || !place->upper || !place->runtime || !place->root ||
        !place->record)
        return error_set_memory(error);
    if (directory_make(place->lower, 0755, error) < 0 ||
        directory_make(place->upper, 0755, error) < 0)
        return -1;
    return directory_make(place->root, 0755, error);
}

/* ---- the keeper ---- */

/* Nobody writes: the pipe ends when all who have its other end have ended. */
static void wait_for_end(int use)
{
    char ignored;
    while (read(use, &ignored, 1) < 0 && errno == EINTR)
        continue;
}

/* In the child; does not return. What is typed at the terminal is not for it, and what asks for the
 * end is blocked. */
static void keep(const struct profile_place *place, int use)
{
    setsid();
    wait_for_end(use);
    container_remove(place->runtime);
    profile_place_unmount(place);
    /* Of a server that was killed. */
    umount2(place->lower, MNT_DETACH);
    remove_directory(place);
    _exit(EXIT_SUCCESS);
}

static int start_keeper(struct profile_place *place, struct error **error)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return error_set_errno(error, errno, "make a pipe");
    place->keeper = fork();
    if (place->keeper == 0) {
        close(ends[1]);
        keep(place, ends[0]);
    }
    close(ends[0]);
    place->in_use = ends[1];
    if (place->keeper < 0) return error_set_errno(error, errno, "start a process");
    return 0;
}

/* ---- its life ---- */

int profile_place_make(struct profile_place **ret, struct error **error)
{
    struct profile_place *place = calloc(1, sizeof *place);
    if (!place) return error_set_memory(error);
    place->in_use = -1;
    int result = make_directory(place, error);
    if (result == 0) {
        result = make_inside(place, error);
        if (result == 0) result = start_keeper(place, error);
        if (result < 0) remove_directory(place);
    }
    if (result < 0) {
        place_free(place);
        return -1;
    }
    *ret = place;
    return 0;
}

void profile_place_unmount(const struct profile_place *place)
{
    umount2(place->root, MNT_DETACH);
    umount2(place->upper, MNT_DETACH);
}

void profile_place_remove(struct profile_place *place)
{
    close(take_descriptor(&place->in_use));
    while (waitpid(place->keeper, NULL, 0) < 0 && errno == EINTR)
        continue;
    place_free(place);
}
