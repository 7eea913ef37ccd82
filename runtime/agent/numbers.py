"""The link's numbers, and nothing else: their home. firmware/link.h has the same names, and
docs/link.md tells what they mean; tests/contract holds all three equal."""

GROUP_OS, GROUP_IMAGE, GROUP_QEDGE = 0, 1, 64

OS_ECHO, OS_RESET, OS_PARAMETERS = 0, 5, 6
IMAGE_STATE, IMAGE_UPLOAD, IMAGE_ERASE = 0, 1, 5  # of microcontrollers
QEDGE_HELLO, QEDGE_DIGEST, QEDGE_WRITE, QEDGE_COPY = 0, 1, 2, 3
QEDGE_JOB, QEDGE_STEP, QEDGE_SECTION = 4, 5, 6

# SMP's own errors, for its groups and for what is no message at all
SMP_OK, SMP_UNKNOWN, SMP_INVALID, SMP_NO_ENTRY = 0, 1, 3, 5
SMP_BAD_STATE, SMP_TOO_LARGE, SMP_UNSUPPORTED, SMP_CORRUPT = 6, 7, 8, 9

# errors of our group; those of the engine (qedge.h) are LINK_ENGINE minus their number
LINK_OK = 0
LINK_RANGE = 1  # no such slot, or outside it
LINK_ACTIVE_SLOT = 2  # the active slot is not to be written
LINK_FLASH = 3  # the flash does not read back what was written
LINK_MESSAGE = 4  # a value of the message is missing, of another type or out of range
LINK_NO_IMAGE = 5  # the slot holds no image
LINK_NO_JOB = 6  # a step, but nothing was begun, or by another client
LINK_WRONG_BOARD = 7  # the image was built for another board
LINK_TEST = 8  # the golden test gave other tokens or other logits
LINK_UNSIGNED = 9  # the board wants a signature, and there is no right one
LINK_OLDER = 10  # its security counter is below one that was accepted before
LINK_OTHER_BOARD = 11  # the message is for a board with another id
LINK_LOCKED = 12  # another client's flash is at work
LINK_DISK_FULL = 13
LINK_DISK = 14  # the disk cannot be written
LINK_TRIED = 15  # the board ended several times while it tested the image
LINK_UNKNOWN = 16  # no such command, or no such job: the other end is of another version
LINK_ENGINE = 100

DIGESTS_AT_ONCE = 64  # blocks of one digest message
DIGEST_BYTES = 8  # of each block's SHA-256
