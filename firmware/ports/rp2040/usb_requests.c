/* usb_requests.c - see usb_requests.h. */
#include "ports/rp2040/usb_requests.h"

#include "port.h"

#if QF_USB_VENDOR

#define LOW(value) ((value) & 0xFF)
#define HIGH(value) ((value) >> 8 & 0xFF)

enum {
    DEVICE = 1,
    CONFIGURATION = 2,
    STRING = 3,
    INTERFACE = 4,
    ENDPOINT = 5,
    ASSOCIATION = 11
};
enum { CLASS_INTERFACE = 0x24, CDC_HEADER = 0, CDC_CALLS = 1, CDC_ACM = 2, CDC_UNION = 6 };
enum { CLASS_CDC = 2, CLASS_CDC_DATA = 10, SUBCLASS_ACM = 2 };
enum { BULK = 2, INTERRUPT = 3 };
enum { LANGUAGES = 0, MANUFACTURER = 1, PRODUCT = 2, SERIAL = 3 };
enum { CONTROL_INTERFACE = 0, DATA_INTERFACE = 1, INTERFACES = 2 };

/* clang-format off */

/* 9.6.1. Class EF 02 01: interfaces belong together as association descriptors say. USB 2.0 at
 * full speed only, so that it has no device qualifier. */
static const uint8_t device[18] = {
    18, DEVICE, 0x00, 0x02, 0xEF, 2, 1, USB_PACKET_BYTES,
    LOW(QF_USB_VENDOR), HIGH(QF_USB_VENDOR), LOW(QF_USB_PRODUCT), HIGH(QF_USB_PRODUCT),
    0x00, 0x01, MANUFACTURER, PRODUCT, SERIAL, 1};

/* 9.6.3, and in it CDC's functional descriptors (CDC 1.2, 5.2.3; PSTN 1.2, 5.3). Powered by the
 * bus, 100 mA; of ACM's abilities line coding and line state. */
static const uint8_t configuration[75] = {
    9, CONFIGURATION, 75, 0, INTERFACES, 1, 0, 0x80, 50,
    8, ASSOCIATION, CONTROL_INTERFACE, INTERFACES, CLASS_CDC, SUBCLASS_ACM, 0, 0,
    9, INTERFACE, CONTROL_INTERFACE, 0, 1, CLASS_CDC, SUBCLASS_ACM, 0, 0,
    5, CLASS_INTERFACE, CDC_HEADER, 0x20, 0x01,
    5, CLASS_INTERFACE, CDC_CALLS, 0, DATA_INTERFACE,
    4, CLASS_INTERFACE, CDC_ACM, 2,
    5, CLASS_INTERFACE, CDC_UNION, CONTROL_INTERFACE, DATA_INTERFACE,
    7, ENDPOINT, 0x81, INTERRUPT, 8, 0, 255,
    9, INTERFACE, DATA_INTERFACE, 0, 2, CLASS_CDC_DATA, 0, 0, 0,
    7, ENDPOINT, 0x02, BULK, USB_PACKET_BYTES, 0, 0,
    7, ENDPOINT, 0x82, BULK, USB_PACKET_BYTES, 0, 0};

/* clang-format on */

void usb_state_init(usb_state *state, const uint8_t id[8])
{
    static const char digits[] = "0123456789abcdef"; /* as board_id is shown everywhere */
    for (int i = 0; i < 8; i++) {
        state->serial[2 * i] = digits[id[i] >> 4];
        state->serial[2 * i + 1] = digits[id[i] & 15];
    }
    state->serial[16] = 0;
    static const uint8_t coding[7] = {0x00, 0xC2, 0x01, 0x00, 0, 0, 8}; /* 115,200 8N1 */
    for (int i = 0; i < 7; i++)
        state->coding[i] = coding[i];
    usb_state_reset(state);
}

void usb_state_reset(usb_state *state)
{
    state->address = state->configuration = state->dtr = 0;
    state->halted = 0;
    state->restart = 1u << USB_NOTIFY | 1u << USB_IN | 1u << USB_OUT;
}

/* A string descriptor (9.6.7) of ASCII, as far as it fits one packet: 31 characters. */
static int string(usb_state *state, uint32_t which)
{
    uint32_t used = 2;
    if (which == LANGUAGES) {
        state->reply[used++] = 0x09; /* English (United States) */
        state->reply[used++] = 0x04;
    } else {
        const char *text = which == MANUFACTURER ? "qedge" : QF_BOARD;
        if (which == SERIAL)
            text = state->serial;
        else if (which > SERIAL)
            return USB_REFUSED;
        for (; *text && used < sizeof state->reply; text++) {
            state->reply[used++] = (uint8_t)*text;
            state->reply[used++] = 0;
        }
    }
    state->reply[0] = (uint8_t)used;
    state->reply[1] = STRING;
    return (int)used;
}

static int descriptor(usb_state *state, const uint8_t setup[8], const uint8_t **data)
{
    switch (setup[3]) {
    case DEVICE: *data = device; return setup[2] ? USB_REFUSED : (int)sizeof device;
    case CONFIGURATION:
        *data = configuration;
        return setup[2] ? USB_REFUSED : (int)sizeof configuration;
    case STRING: return string(state, setup[2]);
    }
    return USB_REFUSED;
}

/* The bit of an endpoint that can be halted, by its address; 0 for others. */
static uint32_t endpoint_bit(const usb_state *state, const uint8_t setup[8])
{
    if (!state->configuration || setup[5])
        return 0;
    switch (setup[4]) {
    case 0x81: return 1u << USB_NOTIFY;
    case 0x82: return 1u << USB_IN;
    case 0x02: return 1u << USB_OUT;
    }
    return 0;
}

static int reply(usb_state *state, uint8_t first, int bytes)
{
    state->reply[0] = first;
    state->reply[1] = 0;
    return bytes;
}

static int endpoint_status(usb_state *state, const uint8_t setup[8])
{
    const uint32_t bit = endpoint_bit(state, setup);
    if (!bit && (setup[4] & 0x7F || setup[5])) /* endpoint 0 is always there */
        return USB_REFUSED;
    return reply(state, (state->halted & bit) != 0, 2);
}

/* ENDPOINT_HALT set or cleared. Either way it begins with DATA0 again (9.4.5). */
static int halt(usb_state *state, const uint8_t setup[8], int on)
{
    const uint32_t bit = endpoint_bit(state, setup);
    if (!bit || setup[2] || setup[3])
        return USB_REFUSED;
    state->halted = on ? state->halted | bit : state->halted & ~bit;
    state->restart |= bit;
    return 0;
}

static int configure(usb_state *state, const uint8_t setup[8])
{
    if (setup[2] > 1)
        return USB_REFUSED;
    const uint8_t address = state->address;
    usb_state_reset(state);
    state->address = address;
    state->configuration = setup[2];
    return 0;
}

/* Both interfaces have one setting, 0, which begins anew when it is chosen (9.4.10). */
static int choose_setting(usb_state *state, const uint8_t setup[8])
{
    if (!state->configuration || setup[4] >= INTERFACES || setup[2])
        return USB_REFUSED;
    const uint32_t endpoints =
        setup[4] == DATA_INTERFACE ? 1u << USB_IN | 1u << USB_OUT : 1u << USB_NOTIFY;
    state->halted &= ~endpoints;
    state->restart |= endpoints;
    return 0;
}

static int of_interface(const usb_state *state, const uint8_t setup[8], int result)
{
    return state->configuration && setup[4] < INTERFACES && !setup[5] ? result : USB_REFUSED;
}

/* CDC's requests are for the control interface. */
static int of_line(const uint8_t setup[8], int result)
{
    return setup[4] == CONTROL_INTERFACE && !setup[5] ? result : USB_REFUSED;
}

static int decide(usb_state *state, const uint8_t setup[8], const uint8_t **data)
{
    const uint32_t asked = (uint32_t)setup[6] | (uint32_t)setup[7] << 8;
    switch ((uint32_t)setup[0] << 8 | setup[1]) { /* bmRequestType, bRequest */
    case 0x8000: return reply(state, 0, 2);       /* GET_STATUS of the device: bus power */
    case 0x8100: return of_interface(state, setup, reply(state, 0, 2));
    case 0x8200: return endpoint_status(state, setup);
    case 0x0201: return halt(state, setup, 0); /* CLEAR_FEATURE, SET_FEATURE */
    case 0x0203: return halt(state, setup, 1);
    case 0x0005: /* SET_ADDRESS */
        if (setup[2] > 127)
            return USB_REFUSED;
        state->address = setup[2];
        return 0;
    case 0x8006: return descriptor(state, setup, data);
    case 0x8008: return reply(state, state->configuration, 1); /* GET_CONFIGURATION */
    case 0x0009: return configure(state, setup);
    case 0x810A: return of_interface(state, setup, reply(state, 0, 1)); /* GET_INTERFACE */
    case 0x010B: return choose_setting(state, setup);
    case 0x2120: /* SET_LINE_CODING */
        return of_line(setup, asked == sizeof state->coding ? 0 : USB_REFUSED);
    case 0xA121: *data = state->coding; return of_line(setup, sizeof state->coding);
    case 0x2122: /* SET_CONTROL_LINE_STATE */
        if (of_line(setup, 0))
            return USB_REFUSED;
        state->dtr = setup[2] & 1;
        return 0;
    }
    return USB_REFUSED;
}

int usb_request(usb_state *state, const uint8_t setup[8], const uint8_t **data)
{
    const int asked = setup[6] | setup[7] << 8;
    *data = state->reply;
    const int found = decide(state, setup, data);
    if (found == USB_REFUSED || (asked && !found && setup[0] & 0x80))
        return USB_REFUSED;
    if (!(setup[0] & 0x80) && asked && setup[1] != 0x20) /* data with what takes none */
        return USB_REFUSED;
    return found < asked ? found : asked;
}

void usb_taken(usb_state *state, const uint8_t *data, uint32_t bytes)
{
    for (uint32_t i = 0; bytes == sizeof state->coding && i < sizeof state->coding; i++)
        state->coding[i] = data[i];
}

#endif
