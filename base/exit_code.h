/* What our programs end with. */
#ifndef SLUICE_BASE_EXIT_CODE_H
#define SLUICE_BASE_EXIT_CODE_H

enum exit_code { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

#endif
