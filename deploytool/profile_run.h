/* Running a program in an image that is mounted for it alone, and recording what it reads. */
#ifndef SLUICE_DEPLOYTOOL_PROFILE_RUN_H
#define SLUICE_DEPLOYTOOL_PROFILE_RUN_H

#include "base/buffer.h"
#include "deploytool/container.h"
#include "node/server.h"

struct profile_run_options {
    const char *reference;
    const struct platform *platform; /* asked for, or NULL */
    const struct digest *index;
    bool plain_http;
    const char *hosts_directory;
    const char *cache;                   /* absolute, or NULL: one for this run alone */
    const struct image_process *process; /* the command is in `arguments` */
    bool own_network, output_to_error;
    unsigned timeout_seconds;
};

/* Only root can; said before anything is done. */
int profile_run_check(struct error **error);
/* While this process has one thread. `ret_record` gets the record, encoded as a profile. This
 * process is in a mount namespace of its own afterwards; nothing is left behind. */
int profile_run(const struct profile_run_options *options, struct buffer *ret_record,
                struct container_result *ret, struct error **error);

#endif
