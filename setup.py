"""The extension modules. Everything else about the package is in pyproject.toml."""

import glob
import os
import sys

from setuptools import Extension, find_packages, setup

ROOMS = {name: f"qedge.{name}" for name in ("runtime", "toolkit", "boards", "firmware")}

with open("runtime/engine/FLAGS", encoding="utf-8") as file:  # without them bits differ
    FLAGS = [*file.read().split(), "-O3", "-fvisibility=hidden"]
if os.environ.get("QEDGE_SANITIZE"):  # address,undefined: see CONTRIBUTING.md
    FLAGS += [f"-fsanitize={os.environ['QEDGE_SANITIZE']}", "-g", "-O1"]
SANITIZE = [flag for flag in FLAGS if flag.startswith("-fsanitize")]

packages = ["qedge", *ROOMS.values()]
for folder, package in ROOMS.items():
    packages += [f"{package}.{name}" for name in find_packages(folder)]

setup(
    packages=packages,
    package_dir={"qedge": "package", **{room: folder for folder, room in ROOMS.items()}},
    ext_modules=[
        Extension(
            "qedge.runtime._engine",
            sources=[
                "runtime/_engine.pyx",
                *sorted(glob.glob("runtime/engine/**/*.c", recursive=True)),
                *sorted(glob.glob("runtime/host/*.c")),
            ],
            # or edits of these are missed
            depends=[
                *sorted(glob.glob("runtime/_*.pxi")),
                *sorted(glob.glob("runtime/**/*.h", recursive=True)),
            ],
            extra_compile_args=FLAGS,
            extra_link_args=SANITIZE + ([] if sys.platform == "darwin" else ["-pthread"]),
        ),
        Extension(
            "qedge.toolkit.quant._tiles",
            sources=[
                "toolkit/quant/_tiles.pyx",
                *sorted(glob.glob("toolkit/quant/tile*.c")),
                "runtime/engine/kernels/formats.c",
            ],
            depends=[
                *sorted(glob.glob("toolkit/quant/*.h")),
                "runtime/engine/kernels/formats.h",
            ],
            extra_compile_args=FLAGS,
            extra_link_args=SANITIZE,
        ),
        Extension(
            "qedge.toolkit.quant._search",
            sources=[
                "toolkit/quant/_search.pyx",
                *sorted(glob.glob("toolkit/quant/search*.c")),
            ],
            depends=sorted(glob.glob("toolkit/quant/search*.h")),
            extra_compile_args=FLAGS,
            extra_link_args=SANITIZE,
        ),
        Extension(
            "qedge.toolkit.quality._rows",
            sources=["toolkit/quality/_rows.pyx", "toolkit/quality/rows.c"],
            depends=["toolkit/quality/rows.h", "toolkit/quality/rows_body.h"],
            extra_compile_args=FLAGS,
            extra_link_args=SANITIZE,
        ),
    ],
)
