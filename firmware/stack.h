/* stack.h - how deep the stack has been. On a microcontroller the reset handler fills it with a
 * pattern, and the linker keeps room for QF_STACK_BYTES of it. */
#ifndef QF_STACK_H
#define QF_STACK_H

#include <stdint.h>

uint32_t stack_bytes(void); /* room there is; 0 where the system takes care of it */
uint32_t stack_used(void);  /* most that was used since reset */

#endif
