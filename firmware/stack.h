/* stack.h - how deep the stack has been. On a microcontroller the reset handler fills it with a
 * pattern. It lies at the bottom of RAM, so that what overruns it harms nothing: it faults
 * where the bus knows that there is no memory, and is noticed before the next answer
 * everywhere. */
#ifndef QF_STACK_H
#define QF_STACK_H

#include <stdint.h>

uint32_t stack_bytes(void); /* room there is; 0 where the system takes care of it */
uint32_t stack_used(void);  /* most that was used since reset */
int stack_overrun(void);    /* whether it went beyond its room */

#endif
