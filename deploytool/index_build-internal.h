/* What the files that build an index share. */
#ifndef SLUICE_DEPLOYTOOL_INDEX_BUILD_INTERNAL_H
#define SLUICE_DEPLOYTOOL_INDEX_BUILD_INTERNAL_H

#include "deploytool/index_build.h"

/* A part's content becomes its blob. */
int built_part_pack(struct built_part *part, const struct buffer *content, struct error **error);
/* The artifact becomes the manifest, and its digest. */
int built_index_encode(struct built_index *index, struct error **error);

#endif
