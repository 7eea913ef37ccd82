/* rp2350/usb.c - the RP2350's USB controller is the RP2040's (RP2350 datasheet 12.7). */
#include "ports/rp2040/usb.c"
#include "ports/rp2040/usb_requests.c"
