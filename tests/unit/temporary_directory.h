/* A directory for one test. */
#ifndef SLUICE_TESTS_TEMPORARY_DIRECTORY_H
#define SLUICE_TESTS_TEMPORARY_DIRECTORY_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* In fresh memory. */
static inline char *temporary_directory_make(void)
{
    const char *parent = getenv("TMPDIR");
    char *path = NULL;
    if (asprintf(&path, "%s/sluice-unit-XXXXXX", parent ? parent : "/tmp") < 0 || !mkdtemp(path))
        abort();
    return path;
}

static inline int temporary_directory_remove_one(const char *path, const struct stat *status,
                                                 int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static inline void temporary_directory_remove(char *path)
{
    nftw(path, temporary_directory_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(path);
}

#endif
