"""Fork after a model was opened: a child may close it, leave, and open its own; it never hangs,
crashes, or gives text that is not the model's. Every child is waited for, with a limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import multiprocessing, os, signal, sys, threading, time
from qedge.runtime import Model, UsageError
path = sys.argv[1]

def child(work):
    # Runs work in a fork; what it printed counts when it ends well, and in time.
    number = os.fork()
    if number == 0:
        signal.alarm(30)
        try:
            work()
            code = 0
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            code = 3
        finally:
            sys.stdout.flush()
        os._exit(code)
    _, status = os.waitpid(number, 0)
    assert status == 0, status

def refused(use):
    try:
        use()
    except UsageError as error:
        assert "before a fork" in str(error), error
    else:
        raise AssertionError(f"{use} was taken")

def whole(model):
    return "".join(model.generate("the rain", 20, hash=True)), model.logits_hash()

model = Model.open(path, threads=3)
right = whole(model)
"""
CASES = {
    "closes": "child(model.close)",
    "leaves": """
number = os.fork()
if number == 0:
    signal.alarm(30)
    sys.exit(0)  # as an interpreter ends: every object is taken down
assert os.waitpid(number, 0)[1] == 0
""",
    "drops it": """
def work():
    global model
    del model
child(work)
""",
    "uses it": """
pieces = model.generate("the rain", 20)
next(pieces)
def work():
    for use in (lambda: model.generate("x", 3), model.reset, lambda: model.evaluate([1]),
                lambda: next(pieces), model.test, model.logits, lambda: model.engine.eval([1]),
                lambda: model.prompt_tokens("x"), model.engine.sample):
        refused(use)
    model.close()
    model.close()
child(work)
next(pieces)  # and nothing of it reaches us
""",
    "opens its own": """
def work():
    with Model.open(path, threads=3) as own:
        assert whole(own) == right
    model.close()
child(work)
""",
    "takes a session of the mapped image": """
def work():
    with model.session() as own:
        assert whole(own) == right
child(work)
""",
    "forks again": """
def work():
    with model.session() as own:
        assert whole(own) == right
        child(lambda: refused(lambda: own.generate("x", 3)))
        assert whole(own) == right
child(work)
""",
    "comes while another thread generates": """
stop = threading.Event()
def generate():
    while not stop.is_set():
        assert whole(model) == right
thread = threading.Thread(target=generate)
thread.start()
def work():
    refused(lambda: model.generate("x", 3))
    refused(model.reset)
    model.close()
    with Model.open(path, threads=3) as own:
        assert whole(own) == right
for _ in range(30):
    child(work)
stop.set()
thread.join()
""",
    "leaves while another thread generates": """
stop = threading.Event()
def generate():
    while not stop.is_set():
        assert whole(model) == right
thread = threading.Thread(target=generate)
thread.start()
for _ in range(10):
    number = os.fork()
    if number == 0:
        signal.alarm(30)
        sys.exit(0)
    assert os.waitpid(number, 0)[1] == 0
stop.set()
thread.join()
""",
    "is a pool of multiprocessing": """
def answer(prompt):
    with Model.open(path, threads=2) as own:
        return "".join(own.generate(prompt, 8))
with multiprocessing.get_context("fork").Pool(3) as pool:
    found = pool.map_async(answer, ["a", "b", "c"] * 4).get(60)
assert found == [answer(prompt) for prompt in ["a", "b", "c"]] * 4
""",
    "is a process of multiprocessing that uses it": """
def work():
    refused(lambda: model.generate("x", 3))
one = multiprocessing.get_context("fork").Process(target=work)
one.start()
one.join(60)
assert one.exitcode == 0
""",
    "is a server's worker, opened before by the master": """
def serve():  # as gunicorn --preload: the application is there already
    own = model.session(threads=2)
    assert whole(own) == right
    own.close()
    sys.exit(0)
workers = []
for _ in range(3):
    number = os.fork()
    if number == 0:
        signal.alarm(60)
        serve()
    workers.append(number)
for number in workers:
    assert os.waitpid(number, 0)[1] == 0
""",
}
END = """
assert whole(model) == right  # the parent goes on as if nothing had been
model.close()
print("done")
"""


@pytest.mark.parametrize("case", CASES)
def test_forked_child(tiny_image: Path, case: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGIN + CASES[case] + END, str(tiny_image)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("done\n"), done
