/* usb_check.c - the RP2040's USB on this machine: usb.c with registers of our own, in which
 * this file is the controller and the host. Prints nothing; ends with 1 at what is wrong. */
#include <stdint.h>

static _Alignas(64) uint8_t registers[0x4000], memory[0x1000];
#define USB_REGISTERS ((uintptr_t)registers)
#define USB_MEMORY ((uintptr_t)memory)
#include "ports/rp2040/usb.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(fact)                                                                            \
    do {                                                                                       \
        if (!(fact)) {                                                                         \
            fprintf(stderr, "usb_check.c:%d: %s\n", __LINE__, #fact);                          \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

enum { NOTHING = -1, STALLED = -2 };

static uint64_t now;
static int host_takes; /* what is written, whenever the firmware looks at the clock */
static uint8_t came[512];
static uint32_t came_bytes, came_packets;

/* The controller's side of an interrupt: the firmware clears what caused it by the aliases. */
static void interrupt(uint32_t why)
{
    CLEAR(USB_REGISTERS + SIE_STATUS) = CLEAR(USB_REGISTERS + BUFF_STATUS) = 0;
    AT(INTS) = why;
    usb_interrupt();
    const uint32_t cleared = CLEAR(USB_REGISTERS + SIE_STATUS);
    CHECK(!(why & INT_SETUP) || cleared & SETUP_RECEIVED);
    CHECK(!(why & INT_RESET) || cleared & BUS_RESET);
    CHECK(!(why & INT_BUFFER) || CLEAR(USB_REGISTERS + BUFF_STATUS));
    AT(BUFF_STATUS) = 0;
}

static void finish(uint32_t endpoint, uint32_t word)
{
    BUFFER(endpoint) = word & ~(uint32_t)AVAILABLE;
    AT(BUFF_STATUS) = 1u << endpoint;
    interrupt(INT_BUFFER);
}

/* The host asks an IN endpoint: bytes, NOTHING (NAK), or STALLED. `data1` must be its toggle.
 */
static int take(uint32_t endpoint, uint32_t at, int data1, uint8_t *data)
{
    const uint32_t word = BUFFER(endpoint);
    if (word & STALL)
        return STALLED;
    if (!(word & AVAILABLE))
        return NOTHING;
    CHECK(word & FULL && !(word & DATA1) == !data1);
    const int bytes = (int)(word & LENGTH);
    for (int i = 0; i < bytes; i++)
        data[i] = memory[at + (uint32_t)i];
    finish(endpoint, word & ~(uint32_t)FULL);
    return bytes;
}

static int put(uint32_t endpoint, uint32_t at, int data1, const uint8_t *data, uint32_t bytes)
{
    const uint32_t word = BUFFER(endpoint);
    if (word & STALL)
        return STALLED;
    if (!(word & AVAILABLE))
        return NOTHING;
    CHECK((word & LENGTH) == 64 && !(word & FULL) && !(word & DATA1) == !data1);
    for (uint32_t i = 0; i < bytes; i++)
        memory[at + i] = data[i];
    finish(endpoint, (word & ~(uint32_t)LENGTH) | FULL | bytes);
    return (int)bytes;
}

static int in_data1; /* the host's toggle of the bulk IN endpoint */

static int take_bulk(void)
{
    const int bytes = take(USB_IN, IN_AT, in_data1, came + came_bytes);
    if (bytes >= 0)
        in_data1 ^= 1, came_bytes += (uint32_t)bytes, came_packets++;
    return bytes;
}

uint64_t port_ticks(void)
{
    now += 10000;
    if (host_takes)
        take_bulk();
    return now;
}

/* ---- control transfers ---- */

static int control(uint32_t type, uint32_t request, uint32_t value, uint32_t index,
                   uint32_t length, uint8_t *data)
{
    const uint8_t setup[8] = {
        (uint8_t)type,  (uint8_t)request,      (uint8_t)value,  (uint8_t)(value >> 8),
        (uint8_t)index, (uint8_t)(index >> 8), (uint8_t)length, (uint8_t)(length >> 8)};
    AT(EP_STALL_ARM) = 0;
    for (int i = 0; i < 8; i++)
        memory[i] = setup[i];
    interrupt(INT_SETUP);
    int done = 0;
    if (type & 0x80 && length) {
        for (int data1 = 1, bytes = 64; bytes == 64 && done < (int)length; data1 ^= 1) {
            bytes = take(USB_CONTROL_IN, CONTROL_AT, data1, data + done);
            if (bytes == STALLED)
                break;
            CHECK(bytes >= 0); /* after a full packet another, if more was asked for */
            done += bytes;
        }
        if (BUFFER(USB_CONTROL_IN) & STALL) {
            CHECK(AT(EP_STALL_ARM) == 3);
            return STALLED;
        }
        CHECK(take(USB_CONTROL_IN, CONTROL_AT, 0, data) == NOTHING);
        CHECK(put(USB_CONTROL_OUT, CONTROL_AT, 1, NULL, 0) == 0);
        return done;
    }
    if (length && put(USB_CONTROL_OUT, CONTROL_AT, 1, data, length) == STALLED)
        return STALLED;
    uint8_t none[64];
    return take(USB_CONTROL_IN, CONTROL_AT, 1, none);
}

static void enumerate(void)
{
    uint8_t data[256];
    interrupt(INT_RESET);
    CHECK(AT(ADDR_ENDP) == 0);
    CHECK(control(0x00, 5, 7, 0, 0, data) == 0 && AT(ADDR_ENDP) == 7);
    CHECK(control(0x00, 9, 1, 0, 0, data) == 0);
    in_data1 = 0;
}

static void open_port(int on)
{
    CHECK(control(0x21, 0x22, on ? 3 : 0, 0, 0, NULL) == 0);
}

static void check_descriptors(void)
{
    static const uint8_t device_bytes[18] = {18,   1,    0x00, 0x02, 0xEF, 2, 1, 64, 0x8A,
                                             0x2E, 0x0A, 0x00, 0x00, 0x01, 1, 2, 3,  1};
    uint8_t data[256];
    CHECK(control(0x80, 6, 0x100, 0, 64, data) == 18);
    CHECK(memcmp(data, device_bytes, 18) == 0);
    CHECK(control(0x80, 6, 0x100, 0, 8, data) == 8);
    CHECK(control(0x80, 6, 0x200, 0, 9, data) == 9 && data[2] == 75 && data[3] == 0);
    CHECK(control(0x80, 6, 0x200, 0, 255, data) == 75); /* 64 and 11 */
    int found = 0, endpoints = 0;
    for (int at = 0; at < 75; at += data[at], found++) {
        CHECK(data[at] >= 2 && at + data[at] <= 75);
        endpoints += data[at + 1] == 5;
    }
    CHECK(found == 11 && endpoints == 3);
    CHECK(control(0x80, 6, 0x300, 0, 255, data) == 4 && data[2] == 9 && data[3] == 4);
    CHECK(control(0x80, 6, 0x301, 0x409, 255, data) == 12 && data[2] == 'q');
    /* a name of 31 characters fills a packet: an empty one follows, as more was asked for */
    CHECK(control(0x80, 6, 0x302, 0x409, 255, data) == 64 && data[62] == '1');
    CHECK(control(0x80, 6, 0x302, 0x409, 64, data) == 64);
    CHECK(control(0x80, 6, 0x303, 0x409, 255, data) == 34);
    for (int i = 0; i < 16; i++)
        CHECK(data[2 + 2 * i] == "0123456789abcdef"[i] && !data[3 + 2 * i]);
}

static void check_requests(void)
{
    uint8_t data[256];
    CHECK(control(0x80, 6, 0x304, 0x409, 255, data) == STALLED);
    CHECK(control(0x80, 6, 0x600, 0, 10, data) == STALLED); /* full speed has no qualifier */
    CHECK(control(0x80, 6, 0x101, 0, 18, data) == STALLED);
    CHECK(control(0x40, 1, 0, 0, 0, data) == STALLED);
    CHECK(control(0x00, 9, 2, 0, 0, data) == STALLED);
    CHECK(control(0x00, 5, 128, 0, 0, data) == STALLED && AT(ADDR_ENDP) == 7);
    CHECK(control(0x00, 3, 1, 0, 0, data) == STALLED); /* it wakes no host */
    CHECK(control(0x80, 0, 0, 0, 2, data) == 2 && !data[0] && !data[1]);
    CHECK(control(0x80, 8, 0, 0, 1, data) == 1 && data[0] == 1);
    CHECK(control(0x81, 10, 0, 1, 1, data) == 1 && data[0] == 0);
    CHECK(control(0x81, 10, 0, 2, 1, data) == STALLED);
    CHECK(control(0x01, 11, 1, 1, 0, data) == STALLED); /* there is one setting */
    CHECK(control(0x82, 0, 0, 0x83, 2, data) == STALLED);
    const uint8_t coding[7] = {0x80, 0x25, 0, 0, 2, 1, 7};
    memcpy(data, coding, 7);
    CHECK(control(0x21, 0x20, 0, 0, 7, data) == 0);
    CHECK(control(0xA1, 0x21, 0, 0, 7, data) == 7 && memcmp(data, coding, 7) == 0);
    CHECK(control(0x21, 0x20, 0, 0, 8, data) == STALLED);
    CHECK(control(0x21, 0x22, 0, 1, 0, data) == STALLED); /* of the control interface */
    /* an address holds from the end of its transfer on */
    memory[0] = 0, memory[1] = 5, memory[2] = 9;
    memset(memory + 3, 0, 5);
    interrupt(INT_SETUP);
    CHECK(AT(ADDR_ENDP) == 7);
    CHECK(take(USB_CONTROL_IN, CONTROL_AT, 1, data) == 0 && AT(ADDR_ENDP) == 9);
}

static void check_bytes_from_the_host(void)
{
    enumerate();
    const uint8_t text[64] = "abc";
    CHECK(usb_read() == -1 && !usb_waiting());
    CHECK(put(USB_OUT, OUT_AT, 0, text, 3) == 3 && usb_waiting());
    CHECK(put(USB_OUT, OUT_AT, 1, text, 3) == NOTHING); /* until it is read */
    CHECK(usb_read() == 'a' && usb_read() == 'b' && usb_read() == 'c' && usb_read() == -1);
    CHECK(put(USB_OUT, OUT_AT, 1, text, 0) == 0 && !usb_waiting());
    CHECK(put(USB_OUT, OUT_AT, 0, text, 64) == 64);
    for (int i = 0; i < 64; i++)
        CHECK(usb_read() == text[i]);
    CHECK(put(USB_OUT, OUT_AT, 1, text, 1) == 1);
    enumerate(); /* what was not read is of the port before */
    CHECK(usb_read() == -1 && put(USB_OUT, OUT_AT, 0, text, 1) == 1 && usb_read() == 'a');
}

static void check_bytes_to_the_host(void)
{
    uint8_t text[200];
    for (int i = 0; i < 200; i++)
        text[i] = (uint8_t)i;
    enumerate();
    usb_write(text, 10); /* nobody has the port open */
    CHECK(take_bulk() == NOTHING);
    open_port(1);
    host_takes = 1;
    came_bytes = came_packets = 0;
    usb_write(text, 127);
    usb_drain();
    CHECK(came_bytes == 127 && came_packets == 2 && memcmp(came, text, 127) == 0);
    usb_write(text, 128); /* two full packets: an empty one says that this is all */
    usb_drain();
    CHECK(came_bytes == 255 && came_packets == 5 && memcmp(came + 127, text, 128) == 0);
    host_takes = 0;
    const uint64_t before = now;
    usb_write(text, 200); /* the first packet waits; the second one is waited for */
    CHECK(now - before > USB_PATIENCE_TICKS && now - before < 2 * USB_PATIENCE_TICKS);
    const uint64_t later = now;
    usb_write(text, 200), usb_drain();
    CHECK(now - later <= 40000); /* and nothing more */
    CHECK(take_bulk() == 64 && take_bulk() == NOTHING);
    usb_write(text + 7, 1);
    CHECK(take_bulk() == 1 && came[came_bytes - 1] == 7);
    open_port(0);
    usb_write(text, 1);
    CHECK(take_bulk() == NOTHING);
    open_port(1);
    interrupt(INT_SUSPEND);
    usb_write(text, 1);
    CHECK(take_bulk() == NOTHING);
    interrupt(INT_RESUME);
    usb_write(text, 1);
    CHECK(take_bulk() == 1);
    usb_write(text, 1);
    interrupt(INT_RESET); /* in the middle: the port is gone */
    CHECK(take_bulk() == NOTHING);
    usb_write(text, 1);
    CHECK(take_bulk() == NOTHING);
}

static void check_halt(void)
{
    uint8_t data[64] = {0};
    enumerate();
    open_port(1);
    usb_write(data, 1);
    CHECK(take_bulk() == 1 && put(USB_OUT, OUT_AT, 0, data, 1) == 1);
    CHECK(control(0x02, 3, 0, 0x82, 0, data) == 0 && control(0x02, 3, 0, 0x02, 0, data) == 0);
    CHECK(take_bulk() == STALLED && put(USB_OUT, OUT_AT, 1, data, 1) == STALLED);
    CHECK(control(0x82, 0, 0, 0x82, 2, data) == 2 && data[0] == 1);
    usb_write(data, 1); /* dropped */
    CHECK(take_bulk() == STALLED);
    CHECK(control(0x02, 1, 0, 0x82, 0, data) == 0 && control(0x02, 1, 0, 0x02, 0, data) == 0);
    in_data1 = 0; /* both begin with DATA0 */
    CHECK(take_bulk() == NOTHING && put(USB_OUT, OUT_AT, 0, data, 1) == 1);
    usb_write(data, 1);
    CHECK(take_bulk() == 1);
    CHECK(control(0x82, 0, 0, 0x82, 2, data) == 2 && data[0] == 0);
}

/* A host may give a transfer up, and begin another. */
static void check_transfer_that_is_given_up(void)
{
    uint8_t data[256];
    memory[0] = 0x80, memory[1] = 6, memory[2] = 0, memory[3] = 2;
    memory[4] = memory[5] = memory[7] = 0, memory[6] = 255;
    interrupt(INT_SETUP);
    CHECK(take(USB_CONTROL_IN, CONTROL_AT, 1, data) == 64);
    CHECK(control(0x80, 6, 0x100, 0, 18, data) == 18 && data[0] == 18);
    memory[0] = 0x80, memory[1] = 6, memory[2] = 0, memory[3] = 2, memory[6] = 255;
    interrupt(INT_SETUP);
    memory[0] = 0x21, memory[1] = 0x20, memory[3] = 0, memory[6] = 7;
    interrupt(
        INT_SETUP); /* the host sends now: nothing of the old one is left to be asked for */
    CHECK(take(USB_CONTROL_IN, CONTROL_AT, 1, data) == NOTHING);
}

int main(void)
{
    static const uint8_t id[8] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF};
    usb_open(id);
    CHECK(AT(SIE_CTRL) & PULLUP_EN && AT(MAIN_CTRL) == 1);
    CHECK(usb_read() == -1);
    usb_write(id, sizeof id); /* without a cable */
    enumerate();
    check_descriptors();
    check_requests();
    check_bytes_from_the_host();
    check_bytes_to_the_host();
    check_halt();
    check_transfer_that_is_given_up();
    return 0;
}
