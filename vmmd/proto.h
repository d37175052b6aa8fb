/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * proto: what vmmd and a guest process (vmmd-guest) say to each other.
 *
 * vmmd binds and listens on a SOCK_SEQPACKET unix socket RUNTIME/guests/NAME.sock, starts
 * vmmd-guest with the listening socket as fd 3 and the guest's log as fds 1 and 2, and connects to
 * it. A restarted vmmd connects again: there is one way in. The guest process serves one connection
 * at a time (the newest wins only after the older closed) and checks with SO_PEERCRED that the
 * peer's uid is root or the uid that started it.
 *
 * A conversation: guest sends HELLO. If its state is PROTO_GUEST_EMPTY vmmd answers SETUP with fds;
 * the guest process answers STATE running, or STATE failed with a reason, and then exits. The guest
 * process exits after STATE stopped or failed; its last STATE is the reason of the end.
 *
 * Every message is a header and exactly the body of its type; a wrong length, type, version or fd
 * count is -EPROTO and ends the connection (vmmd additionally ends the guest process that sent it).
 * Text fields must hold a NUL. Both sides run the same build's structs: a version mismatch is
 * refused by HELLO.
 */
#ifndef VMMD_PROTO_H
#define VMMD_PROTO_H

#include <stdbool.h>
#include <stdint.h>

#define PROTO_VERSION     4u
#define PROTO_MAGIC       0x766d6d64u /* "vmmd" */
#define PROTO_MAX_FDS     16
#define PROTO_NAME_MAX    64
#define PROTO_CMDLINE_MAX 2048
#define PROTO_TEXT_MAX    512
#define PROTO_DISKS_MAX   8
#define PROTO_SERIAL_MAX  24
#define PROTO_DAMAGED_MAX 64 /* blocks that one guest process tells of */
#define PROTO_LISTEN_FD   3  /* in vmmd-guest */

enum proto_type {
    /* vmmd -> guest process */
    PROTO_SETUP = 1,        /* struct proto_setup + fds */
    PROTO_SHARE = 2,        /* struct proto_share + fds {share socket, pool fd}, or none: detach */
    PROTO_PAUSE = 3,        /* no body; answered by STATE */
    PROTO_RESUME = 4,       /* no body; answered by STATE */
    PROTO_POWER_BUTTON = 5, /* no body */
    PROTO_QUIT = 6,         /* no body: end at once; overlay is flushed and closed first */
    PROTO_CONSOLE = 7,      /* no body + fd: one end of a stream socket pair, serial in and out */
    PROTO_QUERY_MEMORY = 8, /* struct proto_query; answered by MEMORY with the same cookie */
    PROTO_BALLOON = 9,      /* struct proto_balloon */
    PROTO_BUDGET = 10,      /* struct proto_budget */
    /* guest process -> vmmd */
    PROTO_HELLO = 64,  /* struct proto_hello */
    PROTO_STATE = 65,  /* struct proto_state */
    PROTO_LOGIN = 66,  /* no body: the serial console shows a login prompt */
    PROTO_MEMORY = 67, /* struct proto_memory */
    PROTO_DEVICE =
        68, /* struct proto_text: a device failed (malformed queue, ...); the guest runs on */
    PROTO_DAMAGED = 69, /* struct proto_damaged: once for each block, up to PROTO_DAMAGED_MAX */
};

enum proto_guest_state {
    PROTO_GUEST_EMPTY = 0, /* waits for SETUP */
    PROTO_GUEST_RUNNING = 1,
    PROTO_GUEST_PAUSED = 2,
    PROTO_GUEST_STOPPED = 3, /* powered off, or asked to quit */
    PROTO_GUEST_FAILED = 4,
    PROTO_GUEST_REBOOT = 5, /* the guest asked for a reset: vmmd starts it again */
};

enum proto_engine { PROTO_ENGINE_SOFT = 1, PROTO_ENGINE_KVM = 2 };
enum proto_cpu_model { PROTO_CPU_HOST = 0, PROTO_CPU_V2 = 1, PROTO_CPU_V3 = 2 };

struct proto_header {
    uint32_t magic, version;
    uint32_t type;   /* enum proto_type */
    uint32_t length; /* of the body, bytes */
};

/* fds, in this order: kernel, console log (append), [initrd], [template disk, hashes], [kvm], each
 * present iff its flag is set, the first two always; then one for each disk. */
enum proto_setup_flags {
    PROTO_SETUP_INITRD = 1u << 0,
    PROTO_SETUP_TEMPLATE = 1u << 1, /* template disk + hash file: lies under the first disk */
    PROTO_SETUP_KVM = 1u << 2,
    /* Carries no fd: merge zero pages only. The template disk is still passed, as the overlay's
     * backing file. For guests that opted out of sharing. */
    PROTO_SETUP_PRIVATE = 1u << 3,
};

enum proto_disk_format { PROTO_DISK_RAW = 1, PROTO_DISK_QCOW2 = 2 };
enum proto_disk_flags { PROTO_DISK_READONLY = 1u << 0 };

/* A disk; the first is the one to boot from. */
struct proto_disk {
    char serial[PROTO_SERIAL_MAX]; /* as the guest sees it: 20 characters at most */
    uint32_t format;               /* enum proto_disk_format */
    uint32_t flags;                /* enum proto_disk_flags */
};

struct proto_setup {
    char name[PROTO_NAME_MAX];
    uint64_t memory_bytes; /* multiple of 1 MiB */
    uint32_t vcpus;
    uint32_t engine;             /* enum proto_engine */
    uint32_t flags;              /* enum proto_setup_flags */
    uint32_t scan_budget;        /* percent of one core; 0: no scanning */
    uint64_t max_mappings;       /* VMA budget of guest RAM */
    uint32_t drop_uid, drop_gid; /* to become when started as root; 0: stay */
    uint32_t cpu_model;          /* enum proto_cpu_model; the software engine has its own */
    uint32_t n_disks;            /* at least 1 */
    uint8_t uuid[16];            /* of this guest */
    struct proto_disk disks[PROTO_DISKS_MAX];
    char cmdline[PROTO_CMDLINE_MAX];
};

struct proto_share {
    uint32_t has_pool; /* 1: fds {socket, pool}; 0: no fds, merge zero and template pages only */
    uint32_t reserved;
};

struct proto_query {
    uint64_t cookie;
};

struct proto_balloon {
    uint64_t target_bytes; /* memory the guest should keep */
};

struct proto_budget {
    uint32_t percent, reserved;
};

struct proto_hello {
    uint32_t version;
    uint32_t state; /* enum proto_guest_state */
    int32_t pid;
    uint32_t login;       /* 1: a login prompt was seen */
    uint64_t ram_address; /* HVA of guest RAM, 0 before setup */
    char name[PROTO_NAME_MAX];
};

struct proto_state {
    uint32_t state;
    uint32_t reserved;
    uint64_t ram_address;
    char reason[PROTO_TEXT_MAX]; /* "" or one line */
};

/* Sent in answer to a query, and by itself (cookie 0) when it changed, at most once a second. */
struct proto_memory {
    uint64_t cookie;
    uint64_t nominal, resident, zero, lineage, template_, pool, private_;
    uint64_t merges, splits, cpu_ns, mappings, mappings_skipped, passes;
    uint64_t repacked, freezes, longest_freeze_ns;
    uint64_t balloon; /* bytes the guest gave back through the balloon */
    uint32_t settled, reserved;
};

/* A block of the template does not match its hash; what read it got an I/O error. */
struct proto_damaged {
    uint64_t offset; /* bytes, of the template's disk */
};

struct proto_text {
    char text[PROTO_TEXT_MAX];
};

struct proto_msg {
    struct proto_header header;
    union {
        struct proto_setup setup;
        struct proto_share share;
        struct proto_query query;
        struct proto_balloon balloon;
        struct proto_budget budget;
        struct proto_hello hello;
        struct proto_state state;
        struct proto_memory memory;
        struct proto_text text;
        struct proto_damaged damaged;
    };
    int fds[PROTO_MAX_FDS]; /* received or to send; -1 where none */
    int n_fds;
};

/* An empty message of one type: header filled, body zeroed, fds -1. */
void proto_init(struct proto_msg *msg, enum proto_type type);

/* Sends one message with its fds (which stay the caller's). 0; -EAGAIN on a full non-blocking
 * socket; -EPIPE and other -errno. */
int proto_send(int sock, const struct proto_msg *msg);

/*
 * Receives and checks one message. 0; -EAGAIN; -ECONNRESET at the end; -EPROTO for anything
 * malformed. Received fds are close-on-exec and the caller's (proto_close_fds closes what it does
 * not take); on failure none is left open.
 */
int proto_recv(int sock, struct proto_msg *ret_msg);
void proto_close_fds(struct proto_msg *msg);

/* Takes fd number i out of the message: the caller owns it; -1 if there is none. */
int proto_take_fd(struct proto_msg *msg, int i);

#endif
