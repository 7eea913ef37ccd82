/* bare.c - starts kernel_check on an emulated Cortex-M, with newlib and semihosting for its
 * output.
 */
#include <stdint.h>
#include <stdlib.h>

int main(int argc, char **argv);
void initialise_monitor_handles(void);
void _start(void);
void _init(void);
void _fini(void);

static char *arguments[] = {"kernel_check", "--quick", NULL};

uint32_t qe_host_features(void)
{
    return 0;
}

void qe_host_float_enter(void)
{
}

void _init(void) /* newlib's, which would call constructors */
{
}

void _fini(void)
{
}

void _start(void)
{
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* the float unit is on */
    __asm volatile("dsb\n isb");
#endif
    initialise_monitor_handles();
    exit(main(2, arguments));
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    (const void *)STACK_TOP, (const void *)_start};
