"""The FUSE front door, which is not the usual one where the kernel's can be: the same trees, bytes
and errors. Both doors share the data path, so of the tests that are long one is run again."""

from e2e import (test_bytes, test_concurrent, test_every_image, test_faults, test_many_misses,
                 test_random_reads, test_tree)


class FuseTree(test_tree.DebianTree):
    """An ordinary image."""

    front = "fuse"


class FuseEveryImage(test_every_image.EveryImage):
    """All that tars and layers can say."""

    front = "fuse"


class FuseBytes(test_bytes.Bytes):
    """How much is fetched."""

    front = "fuse"


class FuseConcurrent(test_concurrent.Concurrent):
    """Many readers, servers that die."""

    front = "fuse"
    test_damaged_cache_heals = test_full_disk_serves_without_keeping = None


class FuseManyMisses(test_many_misses.ManyMisses):
    """Parked reads do not hold up others."""

    front = "fuse"


class FuseFaults(test_faults.Faults):
    """Late, or EIO, but never another byte."""

    front = "fuse"
    test_stalls = test_basic_authentication = test_tokens_that_expire = None
    test_index_is_right_or_not_made = test_mount_is_right_or_not_made = None


class FuseRandomReads(test_random_reads.RandomReads):
    """Past the page cache, too, which the kernel's door does not allow."""

    front = "fuse"
    test_large_cache = test_two_servers_in_a_small_cache = None
