"""The command line as tests call it in a process of its own."""

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
