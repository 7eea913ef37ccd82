"""What the runtime promises, with nothing but Python: `python -m unittest on_device`, here and
on boards (test_runtime_there.py). QEDGE_TEST_IMAGES is a folder with image.qimg and
expected.json, which says what another machine computed."""

from __future__ import annotations

import json
import os
import tempfile
import unittest
from pathlib import Path

from qedge.runtime import BudgetError, ImageError, Model, UsageError
from qedge.runtime.agent.slots import Slots
from qedge.runtime.image import open_image, verify_image
from qedge.runtime.machine import kernel_sets

FOLDER = os.environ.get("QEDGE_TEST_IMAGES", "")


@unittest.skipUnless(FOLDER, "QEDGE_TEST_IMAGES names no folder")
class OnDevice(unittest.TestCase):
    def setUp(self) -> None:
        self.path = Path(FOLDER) / "image.qimg"
        self.expected = json.loads((Path(FOLDER) / "expected.json").read_text())

    def test_every_kernel_set_gives_the_same_logits(self) -> None:
        usable = [name for name, ok in kernel_sets() if ok]
        self.assertIn("portable", usable)
        for name in usable:
            for threads in (1, 2):
                with Model.open(self.path, kernels=name, threads=threads) as model:
                    text = "".join(model.generate(self.expected["prompt"], 12, hash=True))
                    self.assertEqual(text, self.expected["text"], name)
                    self.assertEqual(model.logits_hash(), self.expected["logits_hash"], name)

    def test_batches_give_the_same_logits(self) -> None:
        for batch in (1, 3, 64):
            with Model.open(self.path, batch=batch) as model:
                list(model.generate(self.expected["prompt"], 12, hash=True))
                self.assertEqual(model.logits_hash(), self.expected["logits_hash"])

    def test_the_golden_test_passes(self) -> None:
        with Model.open(self.path) as model:
            self.assertEqual(model.test(), self.expected["golden"])

    def test_the_arena_is_the_planned_one_and_a_byte_less_is_refused(self) -> None:
        size = open_image(self.path).plan["arena_bytes"]
        self.assertEqual(size, self.expected["arena_bytes"])
        with Model.open(self.path, memory=size) as model:
            self.assertEqual(model.arena_bytes, size)
        with self.assertRaises(BudgetError):
            Model.open(self.path, memory=size - 1)

    def test_sampling_is_the_same(self) -> None:
        with Model.open(self.path) as model:
            options = {"temperature": 0.9, "top_p": 0.95, "seed": 11}
            list(model.generate(self.expected["prompt"], 20, **options))
            self.assertEqual(model.tokens, self.expected["sampled"])

    def test_damage_is_found(self) -> None:
        data = bytearray(self.path.read_bytes())
        data[-100] ^= 1
        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder) / "damaged.qimg"
            other.write_bytes(data)
            with self.assertRaises(ImageError):
                verify_image(open_image(other))
            other.write_bytes(data[: len(data) // 2])
            with self.assertRaises(ImageError):
                open_image(other)

    def test_wrong_options_are_usage_errors(self) -> None:
        with self.assertRaises(UsageError):
            Model.open(self.path, threads=0)
        with self.assertRaises(UsageError):
            Model.open(self.path, kernels="no such")

    def test_slots_keep_what_was_made_active(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            slots = Slots(folder)
            slots.write(0, 0, b"image")
            slots.settle(slots.part_path(0))
            slots.activate(0, "00" * 32, 5, 0)
            slots.close()
            self.assertEqual(Slots(folder).active(), 0)


if __name__ == "__main__":
    unittest.main()
