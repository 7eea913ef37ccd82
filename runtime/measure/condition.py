"""In what condition a machine is: clock, heat, throttling, swap, load, watts. Read from sysfs,
procfs and the Raspberry Pi's vcgencmd; nothing is judged here (toolkit/results/trust.py)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # as in model.py: importing costs what a start is counted in
    from typing import Any

# Bits of get_throttled: now, and sixteen higher the same since the board started (Raspberry Pi
# documentation, "vcgencmd get_throttled").
UNDER_VOLTAGE, CAPPED, THROTTLED, SOFT_LIMIT = 1, 2, 4, 8
EARLIER = 16

_CPU = "sys/devices/system/cpu"
_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
_PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/opt/vc/bin")
_SECONDS = 2  # that vcgencmd may take: a firmware that hangs must not hang us


def sample(root: str = "/", vcgencmd: str | None = None) -> dict[str, Any]:
    """The machine's condition now; None for every fact that it does not tell, never an error.

    root: where sys and proc stand, for tests. vcgencmd: its path; looked for when root is "/".
    Hz, milli-degrees Celsius, bytes, pages, watts; ticks count from the machine's start.
    """
    vcgencmd = vcgencmd or (find_vcgencmd() if root == "/" else None)
    found = _clock(root)  # first: what we start ourselves would raise it
    found.update(_load(root))
    if vcgencmd is not None:
        measured = _hz(_ask(vcgencmd, "measure_clock", "arm"))
        found["clock_hz"] = measured or found["clock_hz"]  # the firmware's word is the truth
    found["temperature_millidegrees"] = _temperature(root)
    found["throttled_bits"] = _throttled(root, vcgencmd)
    found["watts"] = watts(vcgencmd)
    found["page_bytes"] = _page_bytes()
    found.update(_memory(root))
    return found


def find_vcgencmd() -> str | None:
    """The path of the Raspberry Pi's vcgencmd, or None."""
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), *_PLACES):
        path = os.path.join(folder, "vcgencmd")
        if folder and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def watts(vcgencmd: str | None) -> float | None:
    """What all rails of the Raspberry Pi 5's power chip give together, in watts; None where it
    has none. Losses before the rails, and what USB and pins draw at 5 V, are not in it."""
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for line in (_ask(vcgencmd, "pmic_read_adc") or "").splitlines():
        name, _, value = line.strip().partition("=")
        rail, _, unit = name.split(" ")[0].rpartition("_")
        number = _float(value.rstrip("AV"))
        if number is not None and unit in ("A", "V"):
            (amperes if unit == "A" else volts)[rail] = number
    pairs = [amperes[rail] * volts[rail] for rail in amperes if rail in volts]
    return sum(pairs) if pairs else None


def machine(root: str = "/") -> str | None:
    """What the device tree calls the machine, or its processor's name; None where neither is
    known."""
    if model := _text(root, "proc/device-tree/model"):
        return model.rstrip("\0")
    for line in (_text(root, "proc/cpuinfo") or "").splitlines():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return None


def _text(root: str, path: str) -> str | None:
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _int(text: str | None, base: int = 10) -> int | None:
    try:
        return int(text or "", base)
    except ValueError:
        return None


def _float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e6 else None  # nor inf or nan


def _names(root: str, path: str, start: str) -> list[str]:
    try:
        found = os.listdir(os.path.join(root, path))
    except OSError:
        return []
    return sorted(f"{path}/{name}" for name in found if name.startswith(start))


def _ask(vcgencmd: str | None, *words: str) -> str | None:
    """What vcgencmd answers; None when it fails, hangs or is not there."""
    if vcgencmd is None:
        return None
    import subprocess

    try:
        done = subprocess.run(
            [vcgencmd, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
            close_fds=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("ascii", "replace") if done.returncode == 0 else None


def _hz(answer: str | None) -> int | None:
    """`frequency(48)=1500345728`."""
    return _int((answer or "").partition("=")[2].strip())


def _clock(root: str) -> dict[str, Any]:
    """Of the fastest cores. `clock_limit_hz` is what policy or heat allow now, `clock_max_hz`
    what the processor can (without turbo, where a base frequency is told)."""

    def khz(place: str, name: str) -> int | None:
        value = _int(_text(root, f"{place}/{name}"))
        return None if value is None else value * 1000

    places = _names(root, f"{_CPU}/cpufreq", "policy") or [f"{_CPU}/cpu0/cpufreq"]
    place = max(places, key=lambda one: khz(one, "cpuinfo_max_freq") or 0)
    most, base = khz(place, "cpuinfo_max_freq"), khz(place, "base_frequency")
    return {
        "governor": _text(root, f"{place}/scaling_governor"),
        "clock_hz": khz(place, "scaling_cur_freq"),
        "clock_limit_hz": khz(place, "scaling_max_freq"),
        "clock_max_hz": min(most, base) if most and base else most,
    }


def _temperature(root: str) -> int | None:
    """The hottest zone of the processor, or the first one where none is called so."""
    found: list[int] = []
    others: list[int] = []
    for zone in _names(root, "sys/class/thermal", "thermal_zone"):
        value = _int(_text(root, f"{zone}/temp"))
        kind = _text(root, f"{zone}/type") or ""
        if value is not None:
            near = any(word in kind.lower() for word in ("cpu", "soc", "pkg"))
            (found if near else others).append(value)
    return max(found) if found else others[0] if others else None


def _throttled(root: str, vcgencmd: str | None) -> int | None:
    """vcgencmd asks the firmware; sysfs of newer kernels tells what was asked last, and
    elsewhere the voltage alarm is all there is."""
    answer = (_ask(vcgencmd, "get_throttled") or "").partition("=")[2].strip()
    for text in (answer, _text(root, _THROTTLED)):
        if (bits := _int(text, 16)) is not None:
            return bits
    for place in _names(root, "sys/class/hwmon", "hwmon"):
        if _text(root, f"{place}/name") == "rpi_volt":
            return _int(_text(root, f"{place}/in0_lcrit_alarm"))  # 1: UNDER_VOLTAGE
    return None


def _load(root: str) -> dict[str, Any]:
    """Ticks of all CPUs, of those the busy ones (stolen by a hypervisor, too), and of those our
    own with the programs that we started."""
    found: dict[str, Any] = dict.fromkeys(
        ("cpus", "total_ticks", "busy_ticks", "own_ticks", "major_faults")
    )
    lines = (_text(root, "proc/stat") or "").splitlines()
    fields = lines[0].split()[1:9] if lines and lines[0].startswith("cpu ") else []
    numbers = [_int(field) or 0 for field in fields]
    if len(numbers) >= 4:
        idle = sum(numbers[3:5])  # and waiting for storage
        found["total_ticks"] = sum(numbers)
        found["busy_ticks"] = sum(numbers) - idle
        found["cpus"] = sum(line[:3] == "cpu" and line[3:4].isdigit() for line in lines)
    own = (_text(root, "proc/self/stat") or "").rpartition(")")[2].split()
    if len(own) >= 15:  # proc(5): majflt is field 12, utime to cstime are 14 to 17
        found["major_faults"] = _int(own[9])
        found["own_ticks"] = sum(_int(field) or 0 for field in own[11:15])
    return found


def _memory(root: str) -> dict[str, Any]:
    paged = dict(
        line.split(" ", 1)
        for line in (_text(root, "proc/vmstat") or "").splitlines()
        if line.startswith(("pswpin ", "pswpout "))
    )
    available = None
    for line in (_text(root, "proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            kib = _int(line.split()[1])
            available = None if kib is None else kib * 1024
    return {
        "swap_in_pages": _int(paged.get("pswpin")),
        "swap_out_pages": _int(paged.get("pswpout")),
        "available_bytes": available,
    }


def _page_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
