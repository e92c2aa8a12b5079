#include "node/temporary_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

int temporary_file_open(struct error **error)
{
    const char *directory = getenv("TMPDIR");
    if (!directory || directory[0] != '/') directory = "/var/tmp";
    int file = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file >= 0) return file;
    error_set_errno(error, errno, "make a temporary file in '%s'", directory);
    return error_hint(error, "TMPDIR names another directory");
}
