"""What the tests of `cutset.profilers.child` run in the child: everything that a library may do."""

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cutset.errors import ProfileError


def echo(value):
    return os.getpid(), value


def variable(name):
    return os.environ.get(name)


def abort(note):
    leave_traces(note)
    os.abort()


def segfault(_):
    ctypes.string_at(0)


def hang(note):
    leave_traces(note)
    time.sleep(600)


def leave(status):
    print("the library gave up", file=sys.stderr)
    sys.exit(status)


def kill_itself(_):
    os.kill(os.getpid(), 9)


def fail(kind):
    if kind == "cutset":
        raise ProfileError("it cannot be measured", cause="no clock")
    raise ValueError("two\nlines")


def eat(count):
    return len(bytearray(count))


def eat_natively(count):
    """Abort as C++ does when an allocation fails."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    if not libc.malloc(count):
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()


def unpicklable(_):
    return lambda: None


def chatter(_):
    print("to stdout")
    os.write(1, b"from C\n" * 10_000)
    os.write(2, b"from C\n" * 10_000)
    return "done"


def leave_traces(note):
    """Start a grandchild, make a temporary file, and note both pids and the file."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    handle, name = tempfile.mkstemp()
    os.close(handle)
    Path(note).write_text(f"{os.getpid()} {child.pid} {name}")


def nap(note):
    """Note its pid and sleep."""
    Path(note).write_text(f"{os.getpid()}")
    time.sleep(600)


def core_limit(_argument):
    return resource.getrlimit(resource.RLIMIT_CORE)
