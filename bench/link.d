bench/link: bench/link.c
