/* boot.h - what a board does before it answers: takes up an image that came by drag and drop,
 * and looks whether the active one is still what was activated.
 */
#ifndef QF_BOOT_H
#define QF_BOOT_H

/* What boot_run found wrong, if anything: `error` (a link error, 0: nothing) with the image in
 * `slot`; `fell_back`: the other slot's image became active in its place. */
typedef struct {
    int slot, error, fell_back;
} boot_report;

extern boot_report boot;

void boot_run(void);

#endif
