"""The list of system calls that code in the sandbox may not make, as a filter program for the kernel."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable

from rethink.grading.sandbox.kernel import MACHINE

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_NEWEST = 470
"""Calls that are newer than this file do not exist in the sandbox."""
_OTHER_CONVENTION = 0x40000000
"""Numbers from here on are the x32 calls of x86_64, which would get around the list."""


def _table(text: str) -> dict[str, tuple[int, int]]:
    """Parse names with their numbers on x86_64 and aarch64; one number holds for both, and - is a call that is missing."""
    found = {}
    for entry in text.split():
        name, _, numbers = entry.partition(":")
        x86, _, arm = numbers.partition("/")
        found[name] = (int(x86), int(-1 if arm == "-" else arm or x86))
    return found


_NETWORK = _table("socket:41/198 connect:42/203 bind:49/200 listen:50/201 accept:43/202 accept4:288/242")
_ALWAYS = _table(
    """io_uring_setup:425 io_uring_enter:426 io_uring_register:427 ptrace:101/117 process_vm_readv:310/270
    process_vm_writev:311/271 process_madvise:440 process_mrelease:448 pidfd_open:434 pidfd_getfd:438
    pidfd_send_signal:424 kcmp:312/272 perf_event_open:298/241 bpf:321/280 userfaultfd:323/282 keyctl:250/219
    add_key:248/217 request_key:249/218 mount:165/40 umount2:166/39 pivot_root:155/41 chroot:161/51 unshare:272/97
    setns:308/268 move_mount:429 open_tree:428 open_tree_attr:467 fsopen:430 fsmount:432 fsconfig:431 fspick:433
    mount_setattr:442 init_module:175/105 finit_module:313/273 delete_module:176/106 kexec_load:246/104
    kexec_file_load:320/294 reboot:169/142 swapon:167/224 swapoff:168/225 sethostname:170/161 setdomainname:171/162
    settimeofday:164/170 clock_settime:227/112 adjtimex:159/171 clock_adjtime:305/266 acct:163/89 quotactl:179/60
    quotactl_fd:443 iopl:172/- ioperm:173/- name_to_handle_at:303/264 open_by_handle_at:304/265 setsid:112/157
    setpgid:109/154 chmod:90/- fchmod:91/52 fchmodat:268/53 fchmodat2:452 chown:92/- lchown:94/- fchown:93/55
    fchownat:260/54 utime:132/- utimes:235/- utimensat:280/88 futimesat:261/- setxattr:188/5 lsetxattr:189/6
    fsetxattr:190/7 setxattrat:463 removexattr:197/14 lremovexattr:198/15 fremovexattr:199/16 removexattrat:466
    file_setattr:469 mq_open:240/180 mq_unlink:241/181 mq_notify:244/184 shmget:29/194 shmat:30/196 shmctl:31/195
    msgget:68/186 msgsnd:69/189 msgrcv:70/188 msgctl:71/187 semget:64/190 semop:65/193 semtimedop:220/192
    semctl:66/191 memfd_create:319/279 memfd_secret:447 sched_setaffinity:203/122 sched_setscheduler:144/119
    sched_setparam:142/118 sched_setattr:314/274 setpriority:141/140 ioprio_set:251/30 migrate_pages:256/238
    move_pages:279/239 rt_sigqueueinfo:129/138 rt_tgsigqueueinfo:297/240 tkill:200/130 syslog:103/116 vhangup:153/58"""
)
_PROCESSES = _table("execve:59/221 execveat:322/281 fork:57/- vfork:58/- socketpair:53/199 ioctl:16/29 flock:73/32")
"""For replies that no user's function grades, which need no other process."""
_CHANGES_OF_FILES = _table(
    """creat:85/- truncate:76/45 unlink:87/- unlinkat:263/35 rename:82/- renameat:264/38 renameat2:316/276 mkdir:83/-
    mkdirat:258/34 rmdir:84/- link:86/- linkat:265/37 symlink:88/- symlinkat:266/36 mknod:133/- mknodat:259/33
    openat2:437"""
)
_SOME = _table(
    """open:2/- openat:257/56 clone:56/220 clone3:435 kill:62/129 tgkill:234/131 prlimit64:302/261 fcntl:72/25
    prctl:157/167 ioctl:16/29 mmap:9/222"""
)
"""Calls that depend on their arguments."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_NEW_NAMESPACES, _THREAD = 0x7E020080, 0x10000
_SIGNALS_OF_FILES = (8, 10, 15, 1024, 1026)  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY
_PR_SET_PDEATHSIG = 1
_SHARED_MEMORY = 0x21  # MAP_SHARED | MAP_ANONYMOUS: memory that no limit of a process counts
_LOAD, _EQUAL, _GREATER, _AT_LEAST, _HAS_BITS, _AND, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_DENY = _FAIL | errno.EPERM
_DENY_QUIETLY = _FAIL | errno.EACCES
"""For calls that Python does without if this is the error."""
_MISSING = _FAIL | errno.ENOSYS

_Code = list[tuple[int, int, int, int]]


def program(pid: int, allow_processes: bool, allow_writing: bool) -> bytes:
    """Return the filter for the process `pid`. With `allow_processes` it may start others, and send signals to processes
    with ids from its own on; with `allow_writing`, what it writes is left to Landlock.
    """
    denied = dict(_ALWAYS)
    if not allow_processes:
        denied |= _PROCESSES
    if not allow_writing:
        denied |= _CHANGES_OF_FILES
    code: _Code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURE[MACHINE]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    code += _on(_AT_LEAST, _OTHER_CONVENTION, _DENY) + _on(_GREATER, _NEWEST, _MISSING)
    for number in _numbers(_NETWORK):
        code += _on(_EQUAL, number, _DENY_QUIETLY)
    for number in _numbers(denied):
        code += _on(_EQUAL, number, _DENY_QUIETLY if number == _number("ioctl") else _DENY)
    code += _rules_for_arguments(pid, allow_processes, allow_writing)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _rules_for_arguments(pid: int, allow_processes: bool, allow_writing: bool) -> _Code:
    own = _on(_EQUAL, 0, _ALLOW) + _on(_EQUAL, pid, _ALLOW)
    signals = [*own, (_RETURN, 0, 0, _DENY)]
    if allow_processes:
        signals = _on(_EQUAL, 0, _ALLOW) + _on(_AT_LEAST, 1 << 31, _DENY) + _on(_AT_LEAST, pid, _ALLOW)
        signals.append((_RETURN, 0, 0, _DENY))
    code = _case("kill", 0, signals) + _case("tgkill", 0, signals)
    code += _case("prlimit64", 0, [*own, (_RETURN, 0, 0, _DENY)])
    code += _case("prctl", 0, _on(_EQUAL, _PR_SET_PDEATHSIG, _DENY))
    code += _case("clone3", 0, [(_RETURN, 0, 0, _MISSING)])  # its flags cannot be read here; libraries use clone then
    flags = _on(_HAS_BITS, _NEW_NAMESPACES, _DENY)
    if not allow_processes:
        flags += [*_on(_HAS_BITS, _THREAD, _ALLOW), (_RETURN, 0, 0, _DENY)]
    code += _case("clone", 0, flags)
    commands: _Code = []
    for command in _SIGNALS_OF_FILES:
        commands += _on(_EQUAL, command, _DENY)
    code += _case("fcntl", 1, commands)
    code += _case("ioctl", 1, [(_AND, 0, 0, 0xFF00), *_on(_EQUAL, ord("f") << 8, _DENY)])  # attributes of files
    code += _case("mmap", 3, [(_AND, 0, 0, _SHARED_MEMORY), *_on(_EQUAL, _SHARED_MEMORY, _DENY)])
    if not allow_writing:
        code += _case("openat", 2, _on(_HAS_BITS, _WRITING, _DENY)) + _case("open", 1, _on(_HAS_BITS, _WRITING, _DENY))
    return code


def _number(name: str) -> int:
    return (_NETWORK | _ALWAYS | _PROCESSES | _CHANGES_OF_FILES | _SOME)[name][_COLUMN[MACHINE]]


def _numbers(names: Iterable[str]) -> list[int]:
    return [number for number in map(_number, names) if number >= 0]


def _on(comparison: int, value: int, result: int) -> _Code:
    """Return instructions that end the filter with `result` if the comparison holds."""
    return [(comparison, 0, 1, value), (_RETURN, 0, 0, result)]


def _case(name: str, argument: int, code: _Code) -> _Code:
    """Return instructions that run `code` for one call, with the low half of an argument loaded."""
    number = _number(name)
    if number < 0:
        return []
    body: _Code = [(_LOAD, 0, 0, 16 + 8 * argument), *code, (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]
