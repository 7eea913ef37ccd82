/* main.c - the firmware: opens the board and answers for ever. */
#include "device.h"
#include "port.h"

int main(void)
{
    port_open();
    device_run();
}
