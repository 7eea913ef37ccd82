/* usb.c - see usb.h. Packets between the controller's memory and the firmware: three endpoints
 * with one buffer each, filled and emptied in place. A packet from the host stays in its buffer
 * until it is read; until then the controller tells the host to wait (NAK).
 * Source: RP2040 datasheet 4.1 (its registers: 4.1.4), RP2350 datasheet 12.7; USB 2.0. */
#include "ports/rp2040/usb.h"

#include "cortex/registers.h"
#include "port.h"
#include "ports/rp2040/usb_requests.h"

#if QF_USB_VENDOR
#ifndef USB_REGISTERS /* a test has its own */
#define USB_REGISTERS 0x50110000u
#define USB_MEMORY 0x50100000u
#endif

enum {
    ADDR_ENDP = 0x00,
    MAIN_CTRL = 0x40,
    SIE_CTRL = 0x4C,
    SIE_STATUS = 0x50,
    BUFF_STATUS = 0x58,
    EP_STALL_ARM = 0x68,
    USB_MUXING = 0x74,
    USB_PWR = 0x78,
    INTE = 0x90,
    INTS = 0x98
};
enum { /* bits of SIE_CTRL, SIE_STATUS, and of INTE and INTS */
       EP0_INT_1BUF = 1 << 29,
       PULLUP_EN = 1 << 16,
       SUSPENDED = 1 << 4,
       RESUMED = 1 << 11,
       SETUP_RECEIVED = 1 << 17,
       BUS_RESET = 1 << 19,
       INT_BUFFER = 1 << 4,
       INT_RESET = 1 << 12,
       INT_SUSPEND = 1 << 14,
       INT_RESUME = 1 << 15,
       INT_SETUP = 1 << 16
};
/* Offsets in the controller's memory (4.1.2.4), and bits of a buffer's control word. */
enum { SETUP_AT = 0, ENDPOINT_AT = 0x08, BUFFER_AT = 0x80 };
enum {
    CONTROL_AT = 0x100,
    NOTIFY_AT = 0x180,
    IN_AT = 0x1C0,
    OUT_AT = 0x200,
    MEMORY_END = 0x240
};
enum { FULL = 1 << 15, DATA1 = 1 << 13, STALL = 1 << 11, AVAILABLE = 1 << 10, LENGTH = 0x3FF };

#define AT(offset) REGISTER(USB_REGISTERS + (offset))
#define WORD(offset) REGISTER(USB_MEMORY + (offset))
#define BYTES(offset) ((volatile uint8_t *)(uintptr_t)(USB_MEMORY + (offset)))
#define BUFFER(endpoint) WORD(BUFFER_AT + 4 * (endpoint))

static usb_state state;
static uint32_t toggles; /* of the next packet: endpoints whose is DATA1 */

/* Endpoint 0: where its transfer stands, and what is still to be sent. */
static enum { IDLE, SENDING, TAKING, STATUS_IN, STATUS_OUT } stage;
static const uint8_t *next;
static uint32_t left;
static int short_wanted; /* the host asked for more than it gets, so a short packet ends it */

/* Written in the interrupt, and elsewhere with interrupts off. */
static volatile uint32_t got, taken; /* bytes in the OUT buffer, and how many were read */
static volatile int sending;         /* the IN buffer is the controller's */
static volatile int suspended;
static volatile int deaf; /* the host took nothing for too long */
static volatile int open; /* configured, not halted, and a program has the port */

/* Gives a buffer to the controller, with so many bytes or room for so many. The rest of the
 * word has to be there some cycles of its clock before AVAILABLE is (4.1.2.5.1). */
static void give(uint32_t endpoint, uint32_t bytes)
{
    uint32_t word = bytes;
    if (!(endpoint & 1))
        word |= FULL;
    if (toggles >> endpoint & 1)
        word |= DATA1;
    toggles ^= 1u << endpoint;
    BUFFER(endpoint) = word;
    wait_12_cycles();
    BUFFER(endpoint) = word | AVAILABLE;
}

static void begin_anew(uint32_t endpoint)
{
    toggles &= ~(1u << endpoint);
    BUFFER(endpoint) = state.halted >> endpoint & 1 ? STALL : 0;
    if (endpoint == USB_IN)
        sending = 0;
    if (endpoint != USB_OUT)
        return;
    got = taken = 0;
    if (state.configuration && !(state.halted >> endpoint & 1))
        give(USB_OUT, USB_PACKET_BYTES);
}

/* Does what the requests have asked of the endpoints. */
static void restart(void)
{
    const uint32_t on = state.configuration ? 1u << 31 | 1u << 29 : 0; /* enabled, interrupts */
    const uint32_t wanted = state.restart;
    state.restart = 0;
    if (!wanted)
        return;
    WORD(ENDPOINT_AT + 0) = on ? on | 3u << 26 | NOTIFY_AT : 0; /* endpoint 1 IN: interrupt */
    WORD(ENDPOINT_AT + 8) = on ? on | 2u << 26 | IN_AT : 0;     /* endpoint 2 IN, OUT: bulk */
    WORD(ENDPOINT_AT + 12) = on ? on | 2u << 26 | OUT_AT : 0;
    for (uint32_t endpoint = USB_NOTIFY; endpoint < USB_ENDPOINTS; endpoint++)
        if (wanted >> endpoint & 1)
            begin_anew(endpoint);
}

/* ---- endpoint 0 ---- */

static void send_part(void)
{
    const uint32_t bytes = left < USB_PACKET_BYTES ? left : USB_PACKET_BYTES;
    for (uint32_t i = 0; i < bytes; i++)
        BYTES(CONTROL_AT)[i] = next[i];
    next += bytes;
    left -= bytes;
    if (bytes < USB_PACKET_BYTES)
        short_wanted = 0;
    give(USB_CONTROL_IN, bytes);
}

static void take_setup(void)
{
    uint8_t setup[8];
    CLEAR(USB_REGISTERS + SIE_STATUS) = SETUP_RECEIVED; /* first: the next one sets it again */
    for (int i = 0; i < 8; i++)
        setup[i] = BYTES(SETUP_AT)[i];
    BUFFER(USB_CONTROL_IN) = BUFFER(USB_CONTROL_OUT) = 0; /* a transfer before it is over */
    CLEAR(USB_REGISTERS + BUFF_STATUS) = 3;
    toggles |= 3; /* its data, and its status the other way, begin with DATA1 (8.5.3) */
    const uint32_t asked = (uint32_t)setup[6] | (uint32_t)setup[7] << 8;
    const int found = usb_request(&state, setup, &next);
    restart();
    deaf = 0; /* it may have opened the port */
    if (found == USB_REFUSED) {
        stage = IDLE;
        AT(EP_STALL_ARM) = 3; /* the controller ends it at the next SETUP */
        BUFFER(USB_CONTROL_IN) = BUFFER(USB_CONTROL_OUT) = STALL;
    } else if (setup[0] & 0x80 && asked) {
        stage = SENDING;
        left = (uint32_t)found;
        short_wanted = left < asked;
        send_part();
    } else if (asked) {
        stage = TAKING;
        give(USB_CONTROL_OUT, USB_PACKET_BYTES);
    } else {
        stage = STATUS_IN;
        give(USB_CONTROL_IN, 0);
    }
}

static void control_sent(void)
{
    if (stage == SENDING && (left || short_wanted)) {
        send_part();
    } else if (stage == SENDING) {
        stage = STATUS_OUT;
        give(USB_CONTROL_OUT, USB_PACKET_BYTES);
    } else if (stage == STATUS_IN) {
        stage = IDLE;
        AT(ADDR_ENDP) = state.address; /* a new one is valid from here on */
    }
}

static void control_taken(void)
{
    if (stage == TAKING) {
        uint8_t data[8]; /* no request takes more (usb_requests.c) */
        const uint32_t bytes = BUFFER(USB_CONTROL_OUT) & LENGTH;
        for (uint32_t i = 0; i < bytes && i < sizeof data; i++)
            data[i] = BYTES(CONTROL_AT)[i];
        usb_taken(&state, data, bytes);
        stage = STATUS_IN;
        give(USB_CONTROL_IN, 0);
    } else {
        stage = IDLE;
    }
}

/* ---- the interrupt ---- */

static void packet_came(void)
{
    taken = 0;
    got = BUFFER(USB_OUT) & LENGTH;
    if (!got) /* an empty packet says nothing */
        give(USB_OUT, USB_PACKET_BYTES);
}

static void buffers_done(void)
{
    const uint32_t done = AT(BUFF_STATUS);
    CLEAR(USB_REGISTERS + BUFF_STATUS) = done;
    suspended = 0;
    if (done & 1u << USB_CONTROL_IN)
        control_sent();
    if (done & 1u << USB_CONTROL_OUT)
        control_taken();
    if (done & 1u << USB_IN)
        sending = deaf = 0;
    if (done & 1u << USB_OUT)
        packet_came();
}

static void bus_reset(void)
{
    CLEAR(USB_REGISTERS + SIE_STATUS) = BUS_RESET;
    CLEAR(USB_REGISTERS + BUFF_STATUS) = ~0u; /* what was done before is of no use */
    AT(ADDR_ENDP) = 0;
    BUFFER(USB_CONTROL_IN) = BUFFER(USB_CONTROL_OUT) = 0;
    stage = IDLE;
    suspended = deaf = 0;
    usb_state_reset(&state);
    restart();
}

void usb_interrupt(void)
{
    const uint32_t why = AT(INTS);
    if (why & INT_SUSPEND) {
        CLEAR(USB_REGISTERS + SIE_STATUS) = SUSPENDED;
        suspended = 1;
    }
    if (why & INT_RESUME) {
        CLEAR(USB_REGISTERS + SIE_STATUS) = RESUMED;
        suspended = 0;
    }
    if (why & INT_RESET)
        bus_reset();
    if (why & INT_BUFFER)
        buffers_done();
    if (why & INT_SETUP) { /* last: what is done ended before it */
        suspended = 0;
        take_setup();
    }
    open = state.configuration && state.dtr && !(state.halted >> USB_IN & 1);
}

void usb_open(const uint8_t id[8])
{
    usb_state_init(&state, id);
    for (uint32_t offset = 0; offset < MEMORY_END; offset += 4)
        WORD(offset) = 0;
    AT(USB_MUXING) = 1 << 3 | 1 << 0; /* the controller has the pins */
    AT(USB_PWR) = 1 << 3 | 1 << 2;    /* no pin tells of the cable's 5 V: taken as there */
    AT(MAIN_CTRL) = 1;                /* enabled, as a device; the RP2350's pins let go, too */
    AT(SIE_CTRL) = EP0_INT_1BUF;
    AT(INTE) = INT_BUFFER | INT_RESET | INT_SUSPEND | INT_RESUME | INT_SETUP;
    AT(SIE_CTRL) = EP0_INT_1BUF | PULLUP_EN; /* the host sees it now */
}

/* ---- bytes ---- */

int usb_waiting(void)
{
    return taken < got;
}

int usb_read(void)
{
    int byte = -1;
    interrupts_off();
    if (taken < got) {
        byte = BYTES(OUT_AT)[taken++];
        if (taken == got) {
            got = taken = 0;
            give(USB_OUT, USB_PACKET_BYTES);
        }
    }
    interrupts_on();
    return byte;
}

static int somebody_listens(void)
{
    return open && !suspended && !deaf;
}

/* Waits until the IN buffer is free. 0: nobody listens, or not any more. */
static int wait_for_buffer(void)
{
    const uint64_t began = port_ticks();
    while (sending && somebody_listens()) {
        if (port_ticks() - began <= USB_PATIENCE_TICKS)
            continue;
        interrupts_off();
        deaf = sending; /* unless it was taken just now */
        interrupts_on();
    }
    return somebody_listens();
}

void usb_write(const uint8_t *bytes, size_t count)
{
    for (size_t at = 0, now = USB_PACKET_BYTES; now == USB_PACKET_BYTES; at += now) {
        if (!wait_for_buffer())
            return;
        now = count - at < USB_PACKET_BYTES ? count - at : USB_PACKET_BYTES;
        for (size_t i = 0; i < now; i++)
            BYTES(IN_AT)[i] = bytes[at + i];
        interrupts_off();
        if (!sending && somebody_listens()) {
            sending = 1;
            give(USB_IN, (uint32_t)now); /* after a full packet one more, empty if need be */
        }
        interrupts_on();
    }
}

void usb_drain(void)
{
    wait_for_buffer();
}

#endif
