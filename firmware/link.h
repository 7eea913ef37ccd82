/* link.h - the link's numbers: groups, commands and errors, as runtime/agent/numbers.py has
 * them, their home; tests/contract holds both equal. docs/link.md tells what each message
 * holds. */
#ifndef QF_LINK_H
#define QF_LINK_H

enum link_group { GROUP_OS = 0, GROUP_IMAGE = 1, GROUP_QEDGE = 64 };

enum os_command { OS_ECHO = 0, OS_RESET = 5, OS_PARAMETERS = 6 };
enum image_command { IMAGE_STATE = 0, IMAGE_UPLOAD = 1, IMAGE_ERASE = 5 };

enum qedge_command {
    QEDGE_HELLO = 0,
    QEDGE_DIGEST = 1, /* hashes of blocks in a slot */
    QEDGE_WRITE = 2,  /* bytes of an image into a slot */
    QEDGE_COPY = 3,   /* a block from slot to slot */
    QEDGE_JOB = 4,    /* begin work that takes steps */
    QEDGE_STEP = 5,   /* the next step of it */
    QEDGE_SECTION = 6 /* bytes of a small section of the active image */
};

/* SMP's own errors, for its groups and for what is no message at all. */
enum smp_error {
    SMP_OK = 0,
    SMP_UNKNOWN = 1,
    SMP_INVALID = 3,
    SMP_NO_ENTRY = 5,
    SMP_BAD_STATE = 6,
    SMP_TOO_LARGE = 7,
    SMP_UNSUPPORTED = 8,
    SMP_CORRUPT = 9
};

/* Errors of our group; those of the engine (qedge.h) are LINK_ENGINE minus their number. */
enum link_error {
    LINK_OK = 0,
    LINK_RANGE = 1,        /* no such slot, or outside it; as slot_error */
    LINK_ACTIVE_SLOT = 2,  /* the active slot is not to be written; as slot_error */
    LINK_FLASH = 3,        /* the flash does not read back what was written; as slot_error */
    LINK_MESSAGE = 4,      /* a value is missing, of another type or out of range */
    LINK_NO_IMAGE = 5,     /* the slot holds no image */
    LINK_NO_JOB = 6,       /* a step, but nothing was begun, or by another client */
    LINK_WRONG_BOARD = 7,  /* the image was built for another board */
    LINK_TEST = 8,         /* the golden test gave other tokens or other logits */
    LINK_UNSIGNED = 9,     /* the board wants a signature, and there is no right one */
    LINK_OLDER = 10,       /* its security counter is below one that was accepted before */
    LINK_OTHER_BOARD = 11, /* the message is for a board with another id */
    LINK_LOCKED = 12,      /* Linux: another client's flash is at work */
    LINK_DISK_FULL = 13,   /* Linux */
    LINK_DISK = 14,        /* Linux: the disk cannot be written */
    LINK_TRIED = 15,       /* the board ended several times while it tested the image */
    LINK_UNKNOWN = 16, /* no such command, or no such job: the other end is newer or older */
    LINK_ENGINE = 100
};

/* Of one digest message: blocks at most, and bytes of each block's SHA-256. */
enum { DIGESTS_AT_ONCE = 64, DIGEST_BYTES = 8 };

#endif
