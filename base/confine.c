#include "base/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

/* Sanitizers look at the process by ptrace(2), and write what they find to files anywhere. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WATCHED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define WATCHED true
#endif
#endif
#ifndef WATCHED
#define WATCHED false
#endif

static void tell(const char *what)
{
    log_info("the server is not confined by %s: %s", what, strerror(errno));
}

/* ---- capabilities(7) ---- */

static bool drop_capabilities(void)
{
    /* What is not in the bounding set cannot be gained by executing a file. Only who has
     * CAP_SETPCAP may shrink it; for others no_new_privs does the same. */
    for (unsigned long capability = 0; capability <= CAP_LAST_CAP; capability++)
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };
    return syscall(SYS_capset, &header, none) == 0;
}

/* ---- seccomp(2) ---- */

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCHITECTURE AUDIT_ARCH_RISCV64
#endif

#ifdef ARCHITECTURE
/* A list of what is refused, and not of what is allowed, which changes with each version of the C
 * library: a filter that broke a mount would be worse than none. */
static const int refused_calls[] = {
    /* other programs, other processes */
    SYS_execve,
    SYS_execveat,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_pidfd_getfd,
    /* the tree of mounts, and other namespaces */
    SYS_mount,
    SYS_umount2,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_pivot_root,
    SYS_chroot,
    SYS_setns,
    SYS_unshare,
#ifdef SYS_mount_setattr
    SYS_mount_setattr,
#endif
    SYS_open_by_handle_at,
    /* the kernel itself */
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_syslog,
    SYS_acct,
    SYS_quotactl,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_personality,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_iopl
    SYS_iopl,
    SYS_ioperm,
#endif
};
#define REFUSED_COUNT (sizeof refused_calls / sizeof *refused_calls)

struct filter {
    struct sock_filter code[3 * REFUSED_COUNT + 40];
    unsigned short length;
};

static void add(struct filter *filter, uint16_t code, uint32_t value, uint8_t if_true,
                uint8_t if_false)
{
    filter->code[filter->length++] = (struct sock_filter){ code, if_true, if_false, value };
}

static void answer_with(struct filter *filter, uint32_t number)
{
    add(filter, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | number, 0, 0);
}

static void answer_call(struct filter *filter, int call, uint32_t number)
{
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1);
    answer_with(filter, number);
}

static void fill_filter(struct filter *filter)
{
    add(filter, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch), 0, 0);
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    answer_with(filter, EPERM);
    add(filter, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
#ifdef __X32_SYSCALL_BIT
    /* The same calls by other numbers. */
    add(filter, BPF_JMP | BPF_JGE | BPF_K, __X32_SYSCALL_BIT, 0, 1);
    answer_with(filter, EPERM);
#endif
    for (size_t i = 0; i < REFUSED_COUNT; i++)
        answer_call(filter, refused_calls[i], EPERM);
    if (!WATCHED) answer_call(filter, SYS_ptrace, EPERM);
    /* A filter cannot see the flags of clone3(2); without it the C library takes clone(2). */
    answer_call(filter, SYS_clone3, ENOSYS);
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3);
    add(filter, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0]), 0, 0);
    add(filter, BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER | CLONE_NEWNS, 0, 1);
    answer_with(filter, EPERM);
    add(filter, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
}

static bool refuse_system_calls(void)
{
    struct filter filter = { .length = 0 };
    fill_filter(&filter);
    struct sock_fprog program = { .len = filter.length, .filter = filter.code };
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}
#else
static bool refuse_system_calls(void)
{
    errno = ENOSYS;
    return false;
}
#endif

/* ---- landlock(7) ---- */

/* Linux 6.2; Debian 12 has older headers. */
#define ACCESS_TRUNCATE (UINT64_C(1) << 14)

#define ACCESS_WRITE                                                                              \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                              \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | \
     LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REFER)
#define ACCESS_NEVER                                                                             \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK | \
     LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM)

static bool allow(int rules, const char *path, uint64_t access)
{
    cleanup_close int descriptor = open(path, O_PATH | O_CLOEXEC);
    struct landlock_path_beneath_attr rule = { .allowed_access = access, .parent_fd = descriptor };
    return descriptor >= 0 &&
           syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
}

/* Before version 2 of its interface no file can move to another directory, as new files of the
 * cache do. */
static bool restrict_writing(const char *const *directories, size_t count)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version >= 0 && version < 2) errno = EOPNOTSUPP;
    if (version < 2) return false;
    uint64_t truncate = version >= 3 ? ACCESS_TRUNCATE : 0;
    struct landlock_ruleset_attr handled = { .handled_access_fs =
                                                 ACCESS_WRITE | ACCESS_NEVER | truncate };
    cleanup_close int rules =
        (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
    if (rules < 0) return false;
    for (size_t i = 0; i < count; i++)
        if (!allow(rules, directories[i], ACCESS_WRITE | truncate)) return false;
    if (!allow(rules, "/dev/null", LANDLOCK_ACCESS_FS_WRITE_FILE | truncate)) return false;
    return syscall(SYS_landlock_restrict_self, rules, 0) == 0;
}

void confine_process(const char *const *directories, size_t count, struct confinement *ret)
{
    *ret = (struct confinement){ 0 };
    ret->capabilities = drop_capabilities();
    if (!ret->capabilities) tell("capabilities");
    ret->no_new_privileges = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
    if (!ret->no_new_privileges) tell("no_new_privs");
    ret->files = !WATCHED && restrict_writing(directories, count);
    if (!ret->files) tell("landlock");
    ret->system_calls = refuse_system_calls();
    if (!ret->system_calls) tell("seccomp");
    /* Its memory holds credentials: no core file, and nothing of /proc/PID/ for others. */
    if (!WATCHED) prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}
