/* usb_requests.h - what a USB host asks over endpoint 0, and the answers: descriptors, standard
 * requests, and those of a serial port (CDC-ACM). Decides only; usb.c moves the packets.
 * Source: USB 2.0, chapter 9; USB CDC 1.2 and its PSTN subclass 1.2. */
#ifndef QF_USB_REQUESTS_H
#define QF_USB_REQUESTS_H

#include <stdint.h>

enum { USB_PACKET_BYTES = 64 }; /* the largest, of endpoint 0 and of both bulk endpoints */

/* Endpoints as the controller counts them (BUFF_STATUS): twice the number, and 1 for OUT. */
enum usb_endpoint {
    USB_CONTROL_IN = 0,
    USB_CONTROL_OUT = 1,
    USB_NOTIFY = 2, /* asked for by CDC, never used: its requests are not acknowledged */
    USB_IN = 4,
    USB_OUT = 5,
    USB_ENDPOINTS = 6
};

enum { USB_REFUSED = -1 };

typedef struct {
    uint8_t address, configuration;
    uint8_t dtr;       /* a program on the host has the port open */
    uint8_t coding[7]; /* what the host says of baud rate and bits: kept, and of no effect */
    uint32_t halted;   /* endpoints, a bit each */
    uint32_t restart;  /* endpoints that begin anew, with DATA0: for usb.c to do */
    char serial[17];
    uint8_t reply[USB_PACKET_BYTES];
} usb_state;

/* As after power-on, with the board's id as its serial number. */
void usb_state_init(usb_state *state, const uint8_t id[8]);

/* The bus was reset: no address, no configuration, port closed. */
void usb_state_reset(usb_state *state);

/* A SETUP packet. Returns how many bytes, at *data, the host is to get, at most what it asked
 * for; 0 also for a request that is done, or whose data is still to come (usb_taken);
 * USB_REFUSED for what is not known or not possible, which the host is told by a STALL. An
 * address becomes valid after the request's status stage (9.4.6). */
int usb_request(usb_state *state, const uint8_t setup[8], const uint8_t **data);

/* The data of a request that the host sent some with: a line coding. */
void usb_taken(usb_state *state, const uint8_t *data, uint32_t bytes);

#endif
