/* frame.h - packets on a serial line, as MCUmgr's SMP has them over a console: base64 lines
 * that begin with 06 09 (first) or 04 14 (more) and end with a line feed; in them the packet's
 * length, the packet and its CRC-16 (XMODEM), both numbers big endian. What is not such a line
 * is noise, and ignored. */
#ifndef QF_FRAME_H
#define QF_FRAME_H

#include <stddef.h>
#include <stdint.h>

enum { FRAME_PACKET_BYTES = 1280 }; /* the largest packet, either way, without length and CRC */

typedef struct {
    uint8_t bytes[FRAME_PACKET_BYTES + 4]; /* length, packet, CRC */
    uint32_t have;                         /* of them */
    uint32_t quad, digits;                 /* of the base64 group that is being read */
    enum { FRAME_NOISE, FRAME_START, FRAME_FIRST, FRAME_MORE, FRAME_TEXT } state;
} frame_reader;

/* Takes one byte of the line. Returns the packet's bytes, which then lie at reader->bytes + 2,
 * when this byte completed a packet whose CRC is right; else 0. */
uint32_t frame_take(frame_reader *reader, uint8_t byte);

/* Writes a packet to the port. */
void frame_send(const uint8_t *packet, uint32_t bytes);

#endif
