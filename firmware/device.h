/* device.h - answers the link's messages. */
#ifndef QF_DEVICE_H
#define QF_DEVICE_H

/* Takes bytes from the port and answers, for ever. */
_Noreturn void device_run(void);

#endif
