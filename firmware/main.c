/* main.c - the firmware: opens the board, looks at what lies in its flash, and answers for
 * ever. */
#include "boot.h"
#include "device.h"
#include "port.h"

int main(void)
{
    port_open();
    boot_run();
    device_run();
}
