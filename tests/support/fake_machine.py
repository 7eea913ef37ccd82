"""A Raspberry Pi that is files: sysfs and procfs below a folder, and a vcgencmd that is a shell
script. Every fault is a change of one fact."""

from __future__ import annotations

from pathlib import Path

CLEAN = {
    "governor": "performance",
    "clock_khz": 2400000,
    "limit_khz": 2400000,
    "max_khz": 2400000,
    "measured_hz": 2400033792,
    "temperature": 61200,
    "throttled": 0,
    "swap_in": 120,
    "swap_out": 340,
    "busy": 5000,
    "idle": 90000,
    "own": 200,
    "faults": 7,
}
PMIC = """\
 3V7_WL_SW_A current(0)=0.10000000A
  VDD_CORE_A current(7)=2.50000000A
      HDMI_A current(22)=0.02000000A
 3V7_WL_SW_V volt(8)=3.70000000V
  VDD_CORE_V volt(15)=0.80000000V
     EXT5V_V volt(24)=5.10000000V
      BATT_V volt(25)=nanV
"""
PMIC_WATTS = 0.1 * 3.7 + 2.5 * 0.8  # no volts of HDMI, no amperes of the rest


class FakeMachine:
    """`set` changes facts; `root` and `vcgencmd` are what `condition.sample` takes."""

    def __init__(self, folder: Path) -> None:
        self.root = str(folder / "root")
        self.vcgencmd = str(folder / "vcgencmd")
        self._folder = folder
        self._facts = dict(CLEAN)
        answers = folder / "answers"
        answers.mkdir()
        (answers / "pmic_read_adc").write_text(PMIC)
        script = folder / "vcgencmd"
        script.write_text(f'#!/bin/sh\nexec cat "{answers}/$1"\n')
        script.chmod(0o755)
        self.set()

    def set(self, **facts: int | str | None) -> FakeMachine:
        """None takes a fact away."""
        assert facts.keys() <= CLEAN.keys()
        self._facts.update(facts)
        now = self._facts
        cpufreq = "sys/devices/system/cpu/cpufreq/policy0"
        files = {
            f"{cpufreq}/scaling_governor": now["governor"],
            f"{cpufreq}/scaling_cur_freq": now["clock_khz"],
            f"{cpufreq}/scaling_max_freq": now["limit_khz"],
            f"{cpufreq}/cpuinfo_max_freq": now["max_khz"],
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": now["temperature"],
            "proc/stat": f"cpu  {now['busy']} 0 0 {now['idle']} 0 0 0 0 0 0\n"
            "cpu0 1 0 0 1 0 0 0 0 0 0\ncpu1 1 0 0 1 0 0 0 0 0 0\nintr 5\n",
            "proc/self/stat": f"42 (a (b) c) R 1 1 1 0 -1 0 9 0 {now['faults']} 0 "
            f"{now['own']} 0 0 0 20 0\n",
            "proc/vmstat": f"nr_free_pages 1\npswpin {now['swap_in']}\n"
            f"pswpout {now['swap_out']}\n",
            "proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 4000 kB\n",
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        }
        for name, text in files.items():
            self._write(Path(self.root) / name, text)
        answers = self._folder / "answers"
        throttled, hz = now["throttled"], now["measured_hz"]
        told = None if throttled is None else f"throttled={throttled:#x}\n"
        self._write(answers / "get_throttled", told)
        self._write(answers / "measure_clock", None if hz is None else f"frequency(0)={hz}\n")
        return self

    def add(self, path: str, text: str) -> None:
        self._write(Path(self.root) / path, text)

    @staticmethod
    def _write(path: Path, text: int | str | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(f"{text}")
