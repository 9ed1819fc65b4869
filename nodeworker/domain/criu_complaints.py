"""CRIU's and runc's complaints with their causes and advice, as data.

Fragments are taken from CRIU 3.19 to 4.3 (the ``pr_err`` calls of criu/*.c) and from runc 1.1 to 1.5. The first matching row
wins, so the particular stands before the general. ``docs/reference/failures.md`` is rendered from here.
"""

from __future__ import annotations

from typing import Final

from nodeworker.domain.complaint import Rule

SANDBOX_GONE: Final = "sandbox-gone"
"""Says nothing about the snapshot, nor about the node."""

CRASHED: Final = "criu-crashed"
"""CRIU ended without an answer; runc says so and knows no more."""

MISPLACED: Final = "cgroup-misplaced"

RULES: Final = (
    Rule(
        CRASHED,
        ("read unixpacket", "read criu-xprt-cln"),
        "CRIU crashed",
        "Run `woodfrog-node doctor` on the node to see which CRIU works there, and `python -m nodeworker.host.criu_bundle` "
        "to lay another one down.",
    ),
    Rule(
        MISPLACED,
        ("not in the container's cgroup",),
        "the restored processes were not in the new container's cgroup, where its limits hold",
        "Run `woodfrog-node doctor` on the node: its runc and CRIU do not agree on cgroups.",
    ),
    Rule(
        SANDBOX_GONE,
        ("Requested network namespace",),
        "the pod's sandbox ended while the container was being created: the pod is being deleted, or its sandbox is created again",
        "None is needed: if the pod is still wanted, it is created again, from the same snapshot.",
    ),
    Rule(
        "kernel-limit",
        ("Can't unshare*No space left on device", "Can't add watch*No space left on device"),
        "a limit of the kernel was reached: of namespaces, or of watches for files",
        "Raise the sysctls user.max_*_namespaces or fs.inotify.max_user_watches on the node.",
    ),
    Rule(
        "disk-full",
        ("No space left on device", "Disk quota exceeded"),
        "the disk filled up while the images were written",
        "Free space under the worker's state directory, or give it a larger disk.",
    ),
    Rule(
        "io-uring",
        ("io_uring",),
        "a process uses io_uring, which CRIU cannot dump",
        "Containers are started without io_uring unless the annotation woodfrog.io/io-uring says `allow`: remove it, and start a "
        "new container. Where runc was built without seccomp, set the sysctl kernel.io_uring_disabled=2 on the node.",
    ),
    Rule(
        "mptcp",
        ("GODEBUG=multipathtcp", "MPTCP"),
        "a process holds a Multipath TCP socket, which CRIU cannot dump",
        "Go programs use Multipath TCP for listeners: set GODEBUG=multipathtcp=0 in the container's environment.",
    ),
    Rule(
        "tcp-connection",
        ("Connected TCP socket, consider using", "Connected TCP socket in image"),
        "a TCP connection was open and the options in force do not allow for one",
        "Keep tcp-close in CRIU's configuration; look for a configuration file on the node that overrides it.",
    ),
    Rule(
        "tcp-close-differs",
        ("Need to set the --tcp-close options",),
        "the dump closed TCP connections and the restore did not have that option",
        "Use the same CRIU configuration on both sides: look for a configuration file on the node that overrides it.",
    ),
    Rule(
        "tcp-state",
        (
            "libsoccr_",
            "recv failed (",
            "Can't turn TCP repair",
            "repair mode",
            "repair queue",
            "Can't set queue seq",
            "Can't repair options",
            "Can't bind inet socket back",
            "Can't connect inet socket back",
            "Can't restore*queue data",
            "window parameters",
            "window properties",
        ),
        "what a TCP connection was could not be read, or not be brought back",
        "Nothing to do: it is tried again without connections, which come back closed then.",
    ),
    Rule(
        "in-flight-connection",
        ("In-flight connection", "on an in-flight socket"),
        "a connection to a listening socket was not accepted yet while the dump was taken, and something was sent through it already",
        "Take the checkpoint again once it is accepted; for TCP keep skip-in-flight in CRIU's configuration.",
    ),
    Rule(
        "link-remap",
        ("Can't create link remap", "Can't link remap", "link_remap."),
        "a process holds a file whose name was deleted while other names of it remain, and its stand-in could not be made "
        "or found",
        "Put such files on the container's own file system or /dev/shm, which travel with the snapshot.",
    ),
    Rule(
        "ghost-file-too-large",
        ("Can't dump ghost file",),
        "a process holds a deleted file that is larger than the limit for such files",
        "Keep large scratch files under a name: those travel whatever their size.",
        names=r"ghost file (\S+) of (\d+) size",
    ),
    Rule(
        "mount-missing",
        ("No mapping for",),
        "a volume, device or driver file that the snapshot's container had mounted is missing in the new one",
        "Give the new container the same mounts, and on nodes with GPUs the same driver.",
        names=r"No mapping for \d+:(\S+)",
    ),
    Rule(
        "mount-propagation",
        ("unreachable sharing",),
        "a mount is shared with the host in a way that CRIU cannot rebuild",
        "Mount the volume without mountPropagation, or keep enable-external-masters in CRIU's configuration.",
    ),
    Rule(
        "overmounted",
        ("Open files on overmounted mounts", "is overmounted so paths are invisible"),
        "a process holds a file below a mount that another mount covers",
        "Do not mount over directories in which files are open.",
    ),
    Rule(
        "file-changed",
        ("has bad size", "has bad mode", "has bad build-ID"),
        "a file that the process has open or mapped differs from the one at the dump",
        "Start the container from the same image, and leave the files on its volumes and, under `woodfrog run`, the machine's own programs as they were.",
        names=r"File (.+) (has bad .+)",
    ),
    Rule(
        "external-socket",
        ("External socket is used", "Can't dump half of stream unix connection"),
        "a process is connected by a unix socket to one that is not part of the snapshot",
        "Close connections to the host's sockets (syslog, D-Bus, a container engine) and to clients in sessions of `exec` first.",
        names=r"unix connection\. name: ([^;\s]+)",
    ),
    Rule(
        "file-locks",
        ("Some file locks are hold by dumping tasks",),
        "a process holds a file lock and the options in force do not allow for one",
        "Keep file-locks in CRIU's configuration; look for a configuration file on the node that overrides it.",
    ),
    Rule(
        "outside-ipc",
        ("doesn't live in IPC ns",),
        "a process maps System V shared memory of an IPC namespace that is not the container's",
        "Do not use hostIPC together with System V shared memory.",
    ),
    Rule(
        "cpu-differs",
        ("xfeatures has unsupported bits", "xsave size mismatch", "CPU capabilities do not match"),
        "this node's CPU lacks what the snapshot's processes had in their registers",
        "Restore on a node of the same CPU family: use a node selector or node affinity.",
    ),
    Rule(
        "freeze-timeout",
        ("Unable to freeze cgroup",),
        "the container did not stop in time",
        "Look for processes that wait for a disk or a network file system; try again when they are done.",
    ),
    Rule(
        "traced",
        ("already traced", "Unable to seize", "SEIZE ", "found while seizing"),
        "a process could not be taken hold of, because a debugger or another dump holds it",
        "Detach gdb and strace, and wait for the other dump.",
    ),
    Rule(
        "dump-timeout",
        ("Timeout reached",),
        "CRIU gave up after its own time limit",
        "The node may be overloaded; try again when it is less so.",
    ),
    Rule(
        "capability-missing",
        ("Can't get rlimit", "Can't setup rlimit"),
        "the node's root lacks the capability to read or set the limits of another user's process",
        "Give the node worker CAP_SYS_RESOURCE (a privileged container has it); on machines that lack it altogether only "
        "processes of root can be checkpointed.",
    ),
    Rule(
        "nested-namespaces",
        (
            "Nested mount namespaces are not supported",
            "Can't dump nested",
            "doesn't belong to the target user namespace",
        ),
        "the container holds containers or a systemd of its own, in namespaces of their own",
        "Checkpoint the inner workload instead; CRIU supports one level of namespaces.",
    ),
    Rule(
        "user-namespace",
        ("Can't setns",),
        "a namespace of the container or its pod could not be entered from the container's user namespace",
        "Run the pod with the node's users (hostUsers: true). A container with a user namespace of its own, such as Docker's "
        "userns-remap gives it, can be checkpointed.",
    ),
    Rule(
        "no-session-leader",
        ("Consider using --shell-job option",),
        "the container's first process belongs to a terminal session outside of the container",
        "Start the container without the terminal of a shell on the host.",
    ),
    Rule(
        "zombie-threads",
        ("Zombies with threads are not supported", "Zombie thread not supported"),
        "the main thread of a process has ended while its other threads run on",
        "Let the main thread wait for the others (pthread_join) instead of ending by pthread_exit.",
    ),
    Rule(
        "descriptors-in-flight",
        ("Control messages in queue", "More than 1 SCM"),
        "file descriptors were on their way through a unix socket",
        "Take the checkpoint again; the receiver had not yet read its messages.",
    ),
    Rule(
        "memfd-secret",
        ("/secretmem",),
        "a process holds memory of memfd_secret, which no other process may read",
        "Let the program do without memfd_secret, or end that process before the snapshot.",
    ),
    Rule(
        "eventpoll",
        ("Dump eventpoll",),
        "an epoll instance that several processes share watches a file that one of them has closed",
        "Let processes make an epoll instance of their own after a fork, or take files out of it before they close them.",
    ),
    Rule(
        "too-many-pipes",
        ("OOM storing pipe",),
        "the container has more than 1024 pipes",
        "Have fewer pipes open, those of all processes together: empty ones count, too.",
    ),
    Rule(
        "netlink",
        ("The netlink socket",),
        "a process listens to messages of the kernel (netlink) in a way that CRIU cannot save",
        "End `ip monitor` and the like before the snapshot.",
    ),
    Rule(
        "socket-family",
        ("Unknown socket collected",),
        "a process holds a socket of a family that CRIU does not know, such as AF_VSOCK",
        "Close it before the snapshot.",
    ),
    Rule(
        "foreign-process",
        ("Unseizable non-zombie", "is outside of its pid namespace"),
        "a process was put into the container from outside, as nsenter does it",
        "End it; the container's first process has to reap it, as `sh` and an init do (docker run --init), or it stays as a zombie. Start "
        "such processes by `exec` of the container's engine.",
    ),
    Rule(
        "terminal-session",
        ("Found dangling tty",),
        "a process that a session with a terminal left behind still holds the terminal",
        "Close the session and what it left, or start such processes with setsid and their output elsewhere.",
    ),
    Rule(
        "posix-queue",
        ("mqueue isn't empty",),
        "the container has a POSIX message queue, which CRIU cannot dump",
        "Let the program remove its queues before the snapshot (mq_unlink): closing them leaves them there.",
    ),
    Rule(
        "file-outside",
        ("Can't lookup mount",),
        "a process holds a file that lies on none of the container's mounts",
        "It is a POSIX message queue without a name, or was opened outside of the container, as a standard output that is a "
        "file of the node. Close it before the snapshot, or give the container a pipe.",
        names=r"Can.t lookup mount=\d+ for (fd=\d+) path=(\S+)",
    ),
    Rule(
        "mount-deleted",
        ("re-create deleted",),
        "the source of a mount was deleted on the node while the container ran",
        "Mount a source that stays.",
        names=r"re-create deleted \w+ (\S+?):",
    ),
    Rule(
        "device",
        ("Can't dump file",),
        "a process holds a device or a kernel object that CRIU cannot dump",
        "Close it before the checkpoint; the line of CRIU's log names it.",
        names=r"Can.t dump file (\d+) of that type \[\d+\] \((.+?)\)",
    ),
    Rule(
        "cuda",
        ("PAUSE_DEVICES failed", "CHECKPOINT_DEVICES failed"),
        "the CUDA driver could not lock or save the state of a GPU",
        "Unified memory, CUDA IPC, MIG and MPS are not supported by the driver; check the driver's version (580 or newer).",
    ),
    Rule(
        "kernel-too-new",
        ("Unexpected rt vDSO area bounds", "vdso: Unexpected", "sockets: Can't get 1:16 opt"),
        "this CRIU is older than what the running kernel needs",
        "Run `python -m nodeworker.host.criu_bundle` to lay a newer CRIU down.",
    ),
    Rule(
        "kernel-differs",
        ("unsupported RSEQ ABI version", "vDSO isn't provided by kernel"),
        "the running kernel lacks what the snapshot's processes were using",
        "Restore on a node with the same kernel release.",
    ),
    Rule(
        "pid-taken",
        ("Can't fork for", "do not match expected"),
        "a process id that the snapshot needs is taken",
        "Give the container a PID namespace of its own, and end other processes that were started in it.",
    ),
    Rule(
        "address-taken",
        ("Can't bind inet socket", "Address already in use"),
        "an address or port that a process listened on cannot be had here",
        "Listen on all addresses instead of the pod's own, and keep the port free.",
    ),
    Rule(
        "security-profile",
        ("Can't write lsm profile", "lsm profile", "apparmor"),
        "the AppArmor profile or SELinux label of the snapshot's processes cannot be set here",
        "Load the same profile on every node that the workload may run on.",
    ),
    Rule(
        "network-lock",
        ("iptables-restore", "Locking network failed", "nft command"),
        "CRIU wanted to lock the network and found no working iptables or nft",
        "Install iptables or nftables on the node, or use CRIU 3.19 or newer, which need not lock.",
    ),
    Rule(
        "config-held",
        ("/..20",),
        "a process holds a file of a ConfigMap, Secret or token open, and the new pod has none of that name",
        "Give the new pod the same files in its ConfigMaps and Secrets, or let programs close them when they are read.",
    ),
    Rule(
        "file-missing",
        ("Can't open file",),
        "a file that a process has open or mapped is not there or cannot be reached",
        "Keep open files on the image, the container's own file system or its volumes, and the volumes mounted.",
        names=r"Can.t open file (.+?)(?: on restore)?: ",
    ),
    Rule(
        "criu-config",
        ("errno 56", "unknown option", "unrecognized option", "Unsupported configuration file"),
        "CRIU cannot use a configuration file of the node",
        "Look into /etc/criu/default.conf and root's ~/.criu/default.conf: CRIU reads both, and may be older than they are.",
        names=r"(unrecognized option \S+)",
    ),
    Rule(
        "criu-missing",
        ("executable file not found", 'exec: "criu"'),
        "there is no CRIU to run",
        "Run `python -m nodeworker.host.criu_bundle`, or name a CRIU in WOODFROG_CRIU.",
    ),
    Rule(
        "criu-unusable",
        ("Looks bad",),
        "CRIU does not work on the running kernel",
        "Run `python -m nodeworker.host.criu_bundle` to lay a newer CRIU down; the kernel needs CONFIG_CHECKPOINT_RESTORE.",
    ),
    Rule(
        "out-of-memory",
        ("Cannot allocate memory", "Out of memory"),
        "the memory limit was reached",
        "Raise the container's memory limit: a restore needs what the processes had, and a little more.",
    ),
    Rule(
        "already-running",
        ("cannot start an already running container",),
        "start was asked for a container whose processes run already",
        "Nothing to do; if a container engine reports it, its runtime is not the one that created the container.",
    ),
)
"""Searched in the order of the table."""

UNKNOWN: Final = Rule(
    "criu-failed",
    (),
    "CRIU failed for a reason that is not in the table of known ones",
    "Read the lines of its log below; the whole log is kept under logs/ in the worker's state directory.",
)
