"""The command line as tests call it in a process of its own."""

import subprocess
import sys

COMMAND = [sys.executable, "-m", "qedge.toolkit"]
VERBS_OF_AN_IMAGE = (
    ["inspect", "{image}"],
    ["run", "{image}", "the rain", "-n", "3"],
    ["bench", "{image}", "--prompt-tokens", "8", "--decode-tokens", "2", "--repeat", "1"],
    ["tokenize", "{image}", "the rain"],
    ["eval", "{image}", "{text}", "--context", "16", "--chunks", "1"],
    ["test", "{image}"],
)


def waiting_build(*words: object) -> "subprocess.Popen[bytes]":
    """`qedge build` in the middle of its weights: it says so, and goes on at the next line of
    its standard input."""
    code = (
        "import sys, qedge.toolkit.make.write as write, qedge.toolkit.cli as cli\n"
        "pack, seen = write.pack, []\n"
        "def wait(*arguments):\n"
        "    seen.append(1)\n"
        "    if len(seen) == 3:\n"
        "        print('writing', flush=True)\n"
        "        sys.stdin.readline()\n"
        "    return pack(*arguments)\n"
        "write.pack = wait\n"
        "cli.main()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, "build", "-q", "q8_0", *map(str, words)],
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
    )
    assert child.stdout is not None and child.stdout.readline() == b"writing\n"
    return child
