"""Processes that work on one store at once, or are killed at it: a program, run by the tests of stores.

It imports once and forks for each piece of work, so that nothing here starts a thread. Each line that it reads is a job
in JSON; each line that it prints says in JSON what came of it.
"""

import json
import os
import random
import signal
import sys
import time
import warnings

import s3fs  # noqa: F401, so that no fork has to
import store_server  # noqa: F401, which registers a file system

from recokit.errors import RecokitError
from recokit.store import EmbeddingStore, places


def forked(work, *, kill_after=None):
    """Run ``work`` in a process of its own, killed after some seconds; return what it returned and how it ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            result = work()
        except BaseException as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        os.write(write, json.dumps(result).encode())
        os._exit(0)
    os.close(write)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return (json.loads(said) if said else None), os.WIFSIGNALED(status)


def store(job):
    return EmbeddingStore(job["root"], cache=job["cache"], options=job.get("options"))


def publish(job):
    return store(job).publish_folder(job["folder"]).name


def look(job):
    """Return the versions that are seen, each opened and checked byte for byte."""
    seen = store(job)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {name: seen.open(name, verify=True).table("user").count for name in seen.versions()}


def killed_at_steps(job):
    """Publish with a kill before the n-th thing that is done to the place, for each n; look, publish again, look."""
    rounds = []
    for step in range(0, 100, job["stride"]):
        number = {**job, "root": f"{job['root']}/{step}"}

        def work(number=number, step=step):
            _kill_before(step)
            return publish(number)

        _, killed = forked(work)
        rounds.append({"killed": killed, "then": forked(lambda number=number: look_publish_look(number))[0]})
        if not killed:
            break
    return rounds


def _kill_before(step):
    done = 0
    for kind in (places.LocalPlace, places.RemotePlace):
        for name in ("create", "_create", "upload", "remove", "read", "names", "files"):
            if hasattr(kind, name):
                setattr(kind, name, _counted(getattr(kind, name), step))
    link = os.link

    def counted(*arguments, **options):
        _tick(step)
        return link(*arguments, **options)

    os.link = counted
    return done


_DONE = [0]


def _tick(step):
    if _DONE[0] == step:
        os.kill(os.getpid(), signal.SIGKILL)
    _DONE[0] += 1


def _counted(method, step):
    def counted(self, *arguments, **options):
        _tick(step)
        return method(self, *arguments, **options)

    return counted


def killed_at_random(job):
    """Publish and kill at random moments, until as many were killed as asked; look, publish again, look."""
    draw, rounds = random.Random(job["seed"]), []
    started = time.monotonic()
    forked(lambda: publish({**job, "root": job["root"] + "/unkilled"}))
    span = time.monotonic() - started
    while sum(each["killed"] for each in rounds) < job["kills"] and len(rounds) < 20 * job["kills"]:
        at = {**job, "root": f"{job['root']}/{len(rounds)}"}
        _, killed = forked(lambda at=at: publish(at), kill_after=draw.uniform(0, span))
        rounds.append({"killed": killed, "then": forked(lambda at=at: look_publish_look(at))[0]})
    return rounds


def look_publish_look(job):
    return [look(job), publish(job), look(job)]


def moving(job):
    """Let several processes move an alias, each from where it has seen it; return how often each one did."""
    return together(job, move)


def move(job, worker):
    """Move the alias as often as asked, to this worker's version and back to the common one."""
    own, moved = store(job), 0
    while moved < job["times"]:
        at = own.aliases().get("production")
        try:
            own.set_alias("production", f"w{worker}" if at == "start" else "start", expected=at)
            moved += 1
        except RecokitError:
            continue
    return moved


def publishing(job):
    """Let several processes publish: all of them the same version, and each one of its own."""
    return together(job, publish_both)


def publish_both(job, worker):
    outcomes = []
    for folder in (job["folders"][worker], job["own"][worker]):
        try:
            store(job).publish_folder(folder)
            outcomes.append("published")
        except RecokitError as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    return outcomes


def together(job, work):
    pipes = []
    for worker in range(job["workers"]):
        read, write = os.pipe()
        if os.fork() == 0:
            try:
                result = work(job, worker)
            except BaseException as error:
                result = f"{type(error).__name__}: {error}"
            os.write(write, json.dumps(result).encode())
            os._exit(0)
        os.close(write)
        pipes.append(read)
    results = []
    for read in pipes:
        with os.fdopen(read, "rb") as pipe:
            results.append(json.loads(pipe.read()))
    for _ in pipes:
        os.wait()
    return results


WORK = {
    "killed_at_steps": killed_at_steps,
    "killed_at_random": killed_at_random,
    "moving": moving,
    "publishing": publishing,
}

if __name__ == "__main__":
    for line in sys.stdin:
        job = json.loads(line)
        sys.stdout.write(json.dumps(WORK[job["work"]](job)) + "\n")
        sys.stdout.flush()
