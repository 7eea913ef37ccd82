/* main.c - the firmware: opens the board, takes up what was put into its flash from outside, and
 * answers for ever. */
#include "device.h"
#include "job.h"
#include "port.h"
#include "slots.h"

/* An image that came by drag and drop has no record. Where none is active, the first that
 * verifies and passes its golden test becomes so. */
static void adopt(void)
{
    for (int slot = 0; slot < SLOT_COUNT && slot_active() == SLOT_NONE; slot++)
        job_activate(slot);
}

int main(void)
{
    port_open();
    adopt();
    device_run();
}
