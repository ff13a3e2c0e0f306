"""Finds the program `ns` and hands words to it. Imports nothing that takes time."""
import os
import sys


def program():
    """Path of `ns`: $NS_PROGRAM, the build folder of this checkout, or the first in $PATH."""
    own = os.environ.get("NS_PROGRAM")
    if own:
        return own
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    places = [os.path.join(here, "build")] + os.environ.get("PATH", "").split(os.pathsep)
    for folder in places:
        path = os.path.join(folder, "ns")
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise FileNotFoundError("the program `ns` is not in $PATH: install it, or name it in $NS_PROGRAM")


def become(*verb):
    """Replaces this Python by `ns VERB` with the same words."""
    sys.stdout.flush()
    path = program()
    os.execv(path, [path, *verb, *sys.argv[1:]])


def call(words, env=None):
    """Runs `ns WORDS` and returns what it reports about itself (a dict); its output goes where ours goes."""
    import json

    read, write = os.pipe()
    os.set_inheritable(write, True)
    environment = dict(os.environ, NS_RESULT_FD=str(write), **(env or {}))
    sys.stdout.flush()
    sys.stderr.flush()
    path = program()
    pid = os.posix_spawn(path, [path, *words], environment)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    result = json.loads(text) if text else {}
    if code == 0:
        return result
    missing = result.get("missing")
    if missing:
        raise TypeError("Missing required argument: '%s'" % missing)
    message = result.get("error") or "ns %s ended with exit code %d" % (words[0], code)
    raise (ValueError if code in (2, 3) else RuntimeError)(message)
