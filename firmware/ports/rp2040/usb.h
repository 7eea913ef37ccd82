/* usb.h - a serial port over USB: CDC-ACM on the full-speed controller of the RP2040, which the
 * RP2350 has, too. The host is answered in an interrupt, also while the firmware computes, but
 * not while flash is written (up to 0.4 s): hosts wait 5 s.
 *
 * What is written while nobody listens is dropped: without a host, while the bus is suspended
 * (the cable is out), and while no program has the port open (DTR). A program that has it open
 * and takes nothing is waited for, but no longer than USB_PATIENCE_TICKS; from then on all is
 * dropped until the host takes what waits for it, or opens the port. So no host holds the
 * firmware up for longer than that; a line of the link that is cut off is noise to the host. */
#ifndef QF_USB_H
#define QF_USB_H

#include <stddef.h>
#include <stdint.h>

/* Of port_ticks: half a second. A host's driver reads within milliseconds. */
enum { USB_PATIENCE_TICKS = QF_TICK_HZ / 2 };

#if QF_USB_VENDOR
/* Shows the board to the host; the controller has its clock, and is out of reset. The id is
 * its serial number. */
void usb_open(const uint8_t id[8]);

/* The vector of the controller's interrupt. */
void usb_interrupt(void);

/* The next byte from the host; -1: there is none now. */
int usb_read(void);
int usb_waiting(void); /* there is one */

void usb_write(const uint8_t *bytes, size_t count);

/* Waits until the host has what was written, if it takes it. */
void usb_drain(void);
#else /* the board's file gives it no number on USB: its UART is its only line */
static inline int usb_read(void)
{
    return -1;
}

static inline int usb_waiting(void)
{
    return 0;
}

static inline void usb_write(const uint8_t *bytes, size_t count)
{
    (void)bytes, (void)count;
}

static inline void usb_drain(void)
{
}
#endif

#endif
